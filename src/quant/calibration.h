// Token batches to calibrate and to measure on: fixed-length sequences drawn evenly from every domain of a text
// collection.
#ifndef OPTIQ_QUANT_CALIBRATION_H_
#define OPTIQ_QUANT_CALIBRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {

struct DomainTokens {
  std::string domain;
  int64_t sequences = 0;
  int64_t tokens = 0;
};

struct TokenBatch {
  int64_t sequences = 0;
  int64_t length = 0;                    // tokens of each sequence
  std::vector<int32_t> ids;              // [sequences, length]
  std::string sha256;                    // of ids as little-endian 32-bit integers
  std::vector<DomainTokens> domains;     // in the order of the file; those without a sequence are listed too
  std::vector<int32_t> sequence_domain;  // [sequences], an index into domains
  int64_t refused_conversations = 0;     // the model's template refused them; they were rendered as paragraphs
  std::string refusal;                   // the template's words on the first of them
};

struct CalibrationOptions {
  int64_t sequences = 8;
  int64_t length = 256;
  uint64_t seed = 0;
  std::string file;         // empty: the embedded text (data/README.md)
  bool heldout = false;     // the embedded text that calibration never sees; not together with `file`
  bool always_bos = false;  // begin with bos_token even where the tokenizer does not add it
};

// Draws `sequences` sequences. The domains take turns, in the file's order, so that the first n domains are covered by
// n sequences. The documents of a domain come in a seeded random order, each used at most once until all have been
// used: of a document longer than a sequence a window at a random place is taken, shorter ones of the same domain are
// joined. Every document, and every window, starts with the tokenizer's BOS where it has one. Windows of one document
// do not overlap. Same text, model and options give the same ids.
//
// `chat_template` may be null. Errors: those of ReadCalibrationFile; kInvalidArgument for options out of range, or for
// too little text, with how many tokens there are and how many are needed.
StatusOr<TokenBatch> LoadCalibration(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                     const CalibrationOptions& options);

}  // namespace optiq

#endif  // OPTIQ_QUANT_CALIBRATION_H_

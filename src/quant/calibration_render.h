// Calibration documents as token ids, in the form in which the model meets such text when it is used.
#ifndef OPTIQ_QUANT_CALIBRATION_RENDER_H_
#define OPTIQ_QUANT_CALIBRATION_RENDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "quant/calibration_documents.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {

class CalibrationRenderer {
 public:
  // `chat_template` may be null (a base model). Both must outlive this. `always_bos`: begin with bos_token even where
  // the tokenizer does not add it; an error when the model names none.
  static StatusOr<CalibrationRenderer> Create(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                              bool always_bos);

  // What every document starts with: BOS where the tokenizer adds one, else nothing.
  const std::vector<int32_t>& prefix() const { return prefix_; }

  // The ids after the prefix. Text is encoded plainly: a control token written in it is one, as in every tool that
  // calibrates on a text file. Conversations go through the chat template, without a generation prompt.
  //
  // A template that takes no tools gets their declarations as part of the system message; one that refuses the
  // conversation (no system or tool role, roles must alternate) gets it again with those folded into the user's turns;
  // one that refuses this too, or a model without a template, gives paragraphs "Role: content".
  StatusOr<std::vector<int32_t>> Body(const CalibrationDocument& document);

  // Conversations that the model's template refused in every form so far.
  int64_t refused() const { return refused_; }
  // What the template said to the first of them; empty without any.
  const std::string& refusal() const { return refusal_; }

 private:
  CalibrationRenderer(const Tokenizer& tokenizer, const ChatTemplate* chat_template)
      : tokenizer_(&tokenizer), chat_template_(chat_template) {}

  StatusOr<std::vector<int32_t>> Conversation(const CalibrationDocument& document);

  const Tokenizer* tokenizer_;
  const ChatTemplate* chat_template_;
  std::vector<int32_t> prefix_;
  int64_t refused_ = 0;
  std::string refusal_;
};

// "User: ...\n\nAssistant: ..." with the tools' declarations, if any, first.
std::string PlainConversation(const OrderedJson& messages, const OrderedJson& tools);

// The same conversation with user and assistant turns only, alternating and starting with the user: system messages and
// tool declarations stand before the first user turn, tool results in user turns, neighbours of one role are joined.
OrderedJson FoldConversation(const OrderedJson& messages, const OrderedJson& tools);

}  // namespace optiq

#endif  // OPTIQ_QUANT_CALIBRATION_RENDER_H_

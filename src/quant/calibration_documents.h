// The documents of a calibration file: plain text, or JSON lines of {"text"} or {"messages"[, "tools"]}, each with an
// optional "domain". Parsing only; text/ makes tokens of them (calibration_render.h).
#ifndef OPTIQ_QUANT_CALIBRATION_DOCUMENTS_H_
#define OPTIQ_QUANT_CALIBRATION_DOCUMENTS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace optiq {

struct CalibrationDocument {
  std::string domain;    // "text" where the file names none
  std::string text;      // of a plain document; empty for a conversation
  OrderedJson messages;  // an array of {"role", "content" ...}, or null
  OrderedJson tools;     // an array of tool declarations, or null
  int64_t line = 0;      // in the file, from 1
};

// One document per line that is not blank. Errors: kInvalidArgument or kDataLoss naming `what` and the line: not UTF-8,
// not JSON, not an object, neither or both of text and messages, a message without role or content; kResourceExhausted
// for a line above 16 MiB.
StatusOr<std::vector<CalibrationDocument>> ParseCalibrationJsonl(std::string_view content, std::string_view what);

// Documents separated by blank lines; CR LF counts as LF. A document of more than 1 MiB is cut into several, at a
// line's end where there is one. Errors: kInvalidArgument naming `what` and the line when the text is not UTF-8.
StatusOr<std::vector<CalibrationDocument>> ParseCalibrationText(std::string_view content, std::string_view what);

// Reads a file of at most 256 MiB: JSON lines when its name ends in .jsonl, .ndjson or .json, else plain text. Errors:
// those of the two above, kNotFound, and kInvalidArgument for a file without documents.
StatusOr<std::vector<CalibrationDocument>> ReadCalibrationFile(const std::string& path);

}  // namespace optiq

#endif  // OPTIQ_QUANT_CALIBRATION_DOCUMENTS_H_

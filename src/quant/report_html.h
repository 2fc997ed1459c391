// report.html: one self-contained page on what was measured and decided (no outside request; light and dark; small
// screens).
#ifndef OPTIQ_QUANT_REPORT_HTML_H_
#define OPTIQ_QUANT_REPORT_HTML_H_

#include <string>

#include "quant/summary.h"

namespace optiq {

// Headline numbers, the held-out evaluation, heat maps of sensitivity and bits, the most sensitive weights, the curve
// of predicted KL over size (about 40 allocations, < 1 s), how it was made, and a sortable table of all weights. Parts
// without data are left out. Every string of the summary is escaped.
std::string ReportHtml(const ConvertSummary& summary);

}  // namespace optiq

#endif  // OPTIQ_QUANT_REPORT_HTML_H_

// The pictures of report.html as inline SVG. Colours are CSS classes (report_assets.cc), so that light and dark share
// the markup.
#ifndef OPTIQ_QUANT_REPORT_CHARTS_H_
#define OPTIQ_QUANT_REPORT_CHARTS_H_

#include <string>
#include <vector>

#include "quant/allocation.h"
#include "quant/summary.h"

namespace optiq {

// Steps of the logarithmic colour scale for sensitivities: classes s0 (least) .. s9.
struct SensitivityScale {
  double low = 0, high = 0;   // of the positive sensitivities; both 0 when there are none
  int Step(double kl) const;  // 0..9, or -1 when kl is not positive
};
SensitivityScale MakeSensitivityScale(const std::vector<SummaryItem>& items);

enum class HeatMapKind { kSensitivity, kBits };

// Layers from left to right, kinds of weight from top to bottom; weights outside the layers are not in it. Empty when
// no item has a layer.
std::string HeatMap(const std::vector<SummaryItem>& items, HeatMapKind what, const SensitivityScale& scale);

// A point of the size / quality picture beside the curve.
struct CurveMark {
  enum class Kind { kShipped, kUniform, kMeasured } kind = Kind::kUniform;
  std::string label;
  double bpw = 0, kl = 0;
};

// Predicted KL (log) over bits per weight. Empty with fewer than two points.
std::string ParetoChart(const std::vector<ParetoPoint>& curve, const std::vector<CurveMark>& marks);

}  // namespace optiq

#endif  // OPTIQ_QUANT_REPORT_CHARTS_H_

// README.md of a converted directory: the model card that model hubs show.
#ifndef OPTIQ_QUANT_MODEL_CARD_H_
#define OPTIQ_QUANT_MODEL_CARD_H_

#include <string>

#include "quant/summary.h"

namespace optiq {

// YAML front matter and Markdown. Says only what was measured; every string of the summary is escaped or quoted.
std::string ModelCard(const ConvertSummary& summary);

}  // namespace optiq

#endif  // OPTIQ_QUANT_MODEL_CARD_H_

// JSON whose objects keep the order of their keys: what reaches a chat template must be printed in the order it was
// written.
#ifndef OPTIQ_TEXT_ORDERED_JSON_H_
#define OPTIQ_TEXT_ORDERED_JSON_H_

#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace optiq {

// As ParseJson (depth, value count, duplicate keys and non-finite numbers are refused), keeping key order.
StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, std::string_view what, const JsonLimits& limits = {});

// True if `value` has more than `depth` levels of arrays and objects.
bool DeeperThan(const OrderedJson& value, int depth);

}  // namespace optiq

#endif  // OPTIQ_TEXT_ORDERED_JSON_H_

// The Kullback-Leibler divergence of two rows of logits.
#ifndef OPTIQ_QUANT_DIVERGENCE_H_
#define OPTIQ_QUANT_DIVERGENCE_H_

#include <cstdint>

namespace optiq {

// log(sum(exp(x))) of f32 [n]; the sum is in double.
double LogSumExp(const float* x, int64_t n);

// KL(softmax(a) || softmax(b)) in nats; a, b: f32 [n], finite.
double Divergence(const float* a, const float* b, int64_t n);

}  // namespace optiq

#endif  // OPTIQ_QUANT_DIVERGENCE_H_

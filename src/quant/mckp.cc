#include "quant/mckp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/status.h"

namespace optiq {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One class without its dominated options: weights rise, costs fall strictly.
struct Frontier {
  std::vector<int> option;  // indices into the class
  std::vector<int64_t> weight;
  std::vector<double> cost;
  std::vector<int> hull;  // positions in the above on the lower convex hull; first and last position are on it
  size_t size() const { return option.size(); }
};

// Taking a class from one hull vertex to the next lighter-to-heavier one.
struct Segment {
  int group;
  int to;          // position in Frontier::hull of its end
  int64_t weight;  // added
  double gain;     // cost removed
  double slope() const { return gain / static_cast<double>(weight); }
};

Frontier MakeFrontier(const MckpClass& options) {
  std::vector<int> order(options.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    if (options[a].weight != options[b].weight) return options[a].weight < options[b].weight;
    if (options[a].cost != options[b].cost) return options[a].cost < options[b].cost;
    return a < b;
  });
  Frontier f;
  for (int i : order) {
    if (!f.cost.empty() && options[i].cost >= f.cost.back()) continue;
    f.option.push_back(i);
    f.weight.push_back(static_cast<int64_t>(options[i].weight));
    f.cost.push_back(options[i].cost);
  }
  auto slope = [&f](int a, int b) { return (f.cost[a] - f.cost[b]) / static_cast<double>(f.weight[b] - f.weight[a]); };
  for (int i = 0; i < static_cast<int>(f.size()); ++i) {
    while (f.hull.size() >= 2 && slope(f.hull[f.hull.size() - 2], f.hull.back()) <= slope(f.hull.back(), i)) {
      f.hull.pop_back();
    }
    f.hull.push_back(i);
  }
  return f;
}

// A way to leave the relaxed solution in one class: `weight` is added (negative: freed) and the Lagrangian rises by
// `loss`.
struct Deviation {
  int position;
  int64_t weight;
  double loss;
};

struct CoreClass {
  int group;
  double price;  // least loss per unit of weight moved
  std::vector<Deviation> moves;
};

struct State {
  int64_t weight;  // deviation from the relaxed solution's weight
  double loss;
  uint32_t parent;
  int32_t move;  // index into CoreClass::moves, -1 for none
  double bound;
};

class Solver {
 public:
  Solver(const std::vector<MckpClass>& classes, uint64_t budget) : classes_(classes) {
    groups_.reserve(classes.size());
    int64_t step = 0;
    for (const MckpClass& c : classes) {
      groups_.push_back(MakeFrontier(c));
      const Frontier& f = groups_.back();
      lightest_ += f.weight.front();
      heaviest_ += f.weight.back();
      for (int64_t w : f.weight) step = std::gcd(step, w - f.weight.front());
    }
    // Every choice weighs lightest_ + a multiple of step: the rest of the budget cannot be used by anyone.
    int64_t spare = static_cast<int64_t>(std::min<uint64_t>(budget, heaviest_)) - lightest_;
    budget_ = lightest_ + (step > 0 ? spare / step * step : 0);
  }

  MckpSolution Run(int64_t max_work) {
    SolveRelaxation();
    if (slack_ > 0 && lambda_ > 0) {
      // A cut search still lowers the upper bound, and a lower bound shrinks the core: try again with what was learnt.
      for (int round = 0; round < 3; ++round) {
        double before = best_loss_;
        if (SearchCore(max_work)) break;
        if (best_loss_ >= before || round == 2) {
          exact_ = false;
          break;
        }
      }
    }
    return Result();
  }

 private:
  // Sets relaxed_ (positions, the rounded-down solution of the relaxation), slack_, lambda_, bound_, and the first
  // incumbent.
  void SolveRelaxation() {
    std::vector<Segment> segments;
    for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
      const Frontier& f = groups_[g];
      for (int h = 1; h < static_cast<int>(f.hull.size()); ++h) {
        int a = f.hull[h - 1], b = f.hull[h];
        segments.push_back({g, h, f.weight[b] - f.weight[a], f.cost[a] - f.cost[b]});
      }
    }
    std::sort(segments.begin(), segments.end(), [](const Segment& a, const Segment& b) {
      double sa = a.slope(), sb = b.slope();
      if (sa != sb) return sa > sb;
      return a.group != b.group ? a.group < b.group : a.to < b.to;
    });
    std::vector<int> vertex(groups_.size(), 0);
    slack_ = budget_ - lightest_;
    size_t next = 0;
    for (; next < segments.size() && segments[next].weight <= slack_; ++next) {
      slack_ -= segments[next].weight;
      vertex[segments[next].group] = segments[next].to;
    }
    relaxed_ = Positions(vertex);
    bound_ = CostOf(relaxed_);
    if (next < segments.size()) {
      lambda_ = segments[next].slope();
      bound_ -= lambda_ * static_cast<double>(slack_);
    }
    // First incumbent: go on down the list with what still fits.
    int64_t slack = slack_;
    for (; next < segments.size(); ++next) {
      const Segment& s = segments[next];
      if (s.weight > slack || vertex[s.group] != s.to - 1) continue;
      slack -= s.weight;
      vertex[s.group] = s.to;
    }
    best_ = Positions(vertex);
    best_loss_ = CostOf(best_) - bound_;
  }

  std::vector<int> Positions(const std::vector<int>& vertex) const {
    std::vector<int> out(groups_.size());
    for (size_t g = 0; g < groups_.size(); ++g) out[g] = groups_[g].hull[vertex[g]];
    return out;
  }

  double CostOf(const std::vector<int>& positions) const {
    double sum = 0;
    for (size_t g = 0; g < groups_.size(); ++g) sum += groups_[g].cost[positions[g]];
    return sum;
  }

  // The classes in which some deviation alone costs less than the incumbent, cheapest price of movement first.
  std::vector<CoreClass> MakeCore() const {
    std::vector<CoreClass> core;
    for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
      const Frontier& f = groups_[g];
      CoreClass c{g, kInfinity, {}};
      for (int p = 0; p < static_cast<int>(f.size()); ++p) {
        if (p == relaxed_[g]) continue;
        int64_t weight = f.weight[p] - f.weight[relaxed_[g]];
        double loss = std::max(0.0, f.cost[p] - f.cost[relaxed_[g]] + lambda_ * static_cast<double>(weight));
        if (loss >= best_loss_) continue;
        c.moves.push_back({p, weight, loss});
        c.price = std::min(c.price, loss / std::fabs(static_cast<double>(weight)));
      }
      if (!c.moves.empty()) core.push_back(std::move(c));
    }
    std::stable_sort(core.begin(), core.end(),
                     [](const CoreClass& a, const CoreClass& b) { return a.price < b.price; });
    return core;
  }

  // What the classes from t on can still do: least loss per unit freed or added, and the most they can free.
  struct Suffix {
    double free_price = kInfinity, add_price = kInfinity;
    int64_t can_free = 0;
  };

  // A solution's loss over the relaxation is (sum of its moves' losses) + lambda * (weight left over); this is the
  // least it can be.
  double Bound(int64_t weight, double loss, const Suffix& rest) const {
    int64_t left = slack_ - weight;
    if (left >= 0) return loss + static_cast<double>(left) * std::min(lambda_, rest.add_price);
    if (left + rest.can_free < 0) return kInfinity;
    return loss + static_cast<double>(-left) * rest.free_price;
  }

  // Dynamic program over the core. Improves best_; false when the work limit cut it.
  bool SearchCore(int64_t max_work) {
    const std::vector<CoreClass> core = MakeCore();
    std::vector<Suffix> suffix(core.size() + 1);
    int64_t branches_left = 0;
    for (size_t t = core.size(); t-- > 0;) {
      suffix[t] = suffix[t + 1];
      int64_t frees = 0;
      for (const Deviation& d : core[t].moves) {
        double price = d.loss / std::fabs(static_cast<double>(d.weight));
        double& best = d.weight < 0 ? suffix[t].free_price : suffix[t].add_price;
        best = std::min(best, price);
        frees = std::max(frees, -d.weight);
      }
      suffix[t].can_free += frees;
      branches_left += core[t].moves.size() + 1;
    }
    struct Link {
      uint32_t parent;
      int32_t move;
    };
    std::vector<std::vector<Link>> links;  // per core class done
    std::vector<State> states = {{0, 0, 0, -1, 0}}, next;
    bool complete = true;
    size_t best_layer = 0;
    uint32_t best_state = 0;
    for (size_t t = 0; t < core.size() && !states.empty(); ++t) {
      const Suffix& rest = suffix[t + 1];
      next.clear();
      bool improved = false;
      auto add = [&](const State& s, uint32_t parent, int move, int64_t weight, double loss) {
        double bound = Bound(s.weight + weight, s.loss + loss, rest);
        int64_t left = slack_ - s.weight - weight;
        double total = s.loss + loss + lambda_ * static_cast<double>(left);
        if (left >= 0 && total < best_loss_) {
          best_loss_ = total;
          improved = true;
        } else if (bound >= best_loss_) {
          return;
        }
        next.push_back({s.weight + weight, s.loss + loss, parent, move, bound});
      };
      for (uint32_t i = 0; i < states.size(); ++i) {
        add(states[i], i, -1, 0, 0);
        for (int m = 0; m < static_cast<int>(core[t].moves.size()); ++m) {
          add(states[i], i, m, core[t].moves[m].weight, core[t].moves[m].loss);
        }
      }
      max_work -= static_cast<int64_t>(states.size() * (core[t].moves.size() + 1));
      branches_left -= core[t].moves.size() + 1;
      RemoveDominated(&next);
      // A state met now costs one unit of work per branch of every class still to come.
      auto limit = static_cast<size_t>(std::max<int64_t>(64, max_work / std::max<int64_t>(1, branches_left)));
      if (next.size() > limit) {
        KeepBest(limit, &next);
        complete = false;
      }
      std::vector<Link> layer;
      layer.reserve(next.size());
      for (uint32_t i = 0; i < next.size(); ++i) {
        layer.push_back({next[i].parent, next[i].move});
        int64_t left = slack_ - next[i].weight;
        if (improved && left >= 0 && next[i].loss + lambda_ * static_cast<double>(left) <= best_loss_) {
          best_layer = t + 1;
          best_state = i;
        }
      }
      links.push_back(std::move(layer));
      states.swap(next);
    }
    if (best_layer > 0) {
      best_ = relaxed_;
      uint32_t state = best_state;
      for (size_t t = best_layer; t-- > 0;) {
        const Link& link = links[t][state];
        if (link.move >= 0) best_[core[t].group] = core[t].moves[link.move].position;
        state = link.parent;
      }
    }
    return complete;
  }

  // Keeps, by rising weight, the states that cost less (loss - lambda * weight) than every lighter one.
  void RemoveDominated(std::vector<State>* states) const {
    auto cost = [this](const State& s) { return s.loss - lambda_ * static_cast<double>(s.weight); };
    std::sort(states->begin(), states->end(), [&](const State& a, const State& b) {
      if (a.weight != b.weight) return a.weight < b.weight;
      if (a.loss != b.loss) return a.loss < b.loss;
      return a.parent != b.parent ? a.parent < b.parent : a.move < b.move;
    });
    double lowest = kInfinity;
    std::erase_if(*states, [&](const State& s) {
      if (IsIncumbent(s)) {  // never lost to rounding in the comparisons below
        lowest = std::min(lowest, cost(s));
        return false;
      }
      if (s.bound >= best_loss_ || cost(s) >= lowest) return true;
      lowest = cost(s);
      return false;
    });
  }

  bool IsIncumbent(const State& s) const {
    int64_t left = slack_ - s.weight;
    return left >= 0 && s.loss + lambda_ * static_cast<double>(left) <= best_loss_;
  }

  void KeepBest(size_t limit, std::vector<State>* states) const {
    auto promising = [this](const State& a, const State& b) {
      bool ia = IsIncumbent(a), ib = IsIncumbent(b);
      if (ia != ib) return ia;
      if (a.bound != b.bound) return a.bound < b.bound;
      return a.weight < b.weight;
    };
    std::nth_element(states->begin(), states->begin() + static_cast<int64_t>(limit), states->end(), promising);
    states->resize(limit);
    std::sort(states->begin(), states->end(), [](const State& a, const State& b) { return a.weight < b.weight; });
  }

  MckpSolution Result() const {
    MckpSolution out;
    for (size_t g = 0; g < groups_.size(); ++g) {
      out.choice.push_back(groups_[g].option[best_[g]]);
      out.weight += static_cast<uint64_t>(groups_[g].weight[best_[g]]);
      out.cost += groups_[g].cost[best_[g]];
    }
    out.lower_bound = std::max(0.0, std::min(bound_, out.cost));
    out.optimal = exact_;
    return out;
  }

  const std::vector<MckpClass>& classes_;
  std::vector<Frontier> groups_;
  int64_t lightest_ = 0, heaviest_ = 0;
  int64_t budget_ = 0;
  std::vector<int> relaxed_, best_;  // positions in the frontiers
  int64_t slack_ = 0;                // budget left by relaxed_
  double lambda_ = 0;                // cost per unit of weight at the break
  double bound_ = 0;                 // the relaxation's optimum
  double best_loss_ = 0;             // cost of best_ above bound_
  bool exact_ = true;
};

}  // namespace

uint64_t MckpMinWeight(const std::vector<MckpClass>& classes) {
  uint64_t sum = 0;
  for (const MckpClass& c : classes) {
    sum += std::min_element(c.begin(), c.end(), [](const MckpOption& a, const MckpOption& b) {
             return a.weight < b.weight;
           })->weight;
  }
  return sum;
}

std::optional<MckpSolution> SolveMckp(const std::vector<MckpClass>& classes, uint64_t budget, int64_t max_work) {
  for (const MckpClass& c : classes) OPTIQ_CHECK(!c.empty());
  if (MckpMinWeight(classes) > budget) return std::nullopt;
  return Solver(classes, budget).Run(max_work);
}

}  // namespace optiq

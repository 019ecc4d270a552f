// Means, medians and spreads of a few repetitions.
#pragma once

#include <vector>

namespace gqmm::bench {

struct Summary {
  double median = 0;
  double low = 0;   ///< the first quartile
  double high = 0;  ///< the third quartile
  double least = 0;
  double most = 0;
};

/// Returns the mean, or 0 without values. The sum is divided once, so the mean of equal whole numbers is exactly that number.
double mean(const std::vector<double>& values);

/// Returns the quartiles, by linear interpolation between the values. Without values all are zero.
Summary summarize(std::vector<double> values);

}  // namespace gqmm::bench

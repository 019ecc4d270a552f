// Means, medians and spreads of a few repetitions.
#pragma once

#include <vector>

namespace gqmm::bench {

struct Summary {
  double median = 0;
  double low = 0;   ///< first quartile
  double high = 0;  ///< third quartile
  double least = 0;
  double most = 0;
};

/// The sum divided once: the mean of whole numbers that are all the same is that number. 0 without values.
double mean(const std::vector<double>& values);

/// Quartiles by linear interpolation between the values. All zero without values.
Summary summarize(std::vector<double> values);

}  // namespace gqmm::bench

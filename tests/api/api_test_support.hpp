// Arrays and problems for the tests of the API.
#pragma once

#include "api/lower.hpp"
#include "cpu/backend.hpp"
#include "formats/registry.hpp"
#include "reference/reference.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace gqmm::test {

using namespace detail;

/// Values row by row, rounded to `dtype`.
inline array floats(const Shape& shape, const std::vector<float>& values, Dtype dtype = Dtype::float32) {
  array a = array::empty(shape, dtype);
  for (std::size_t i = 0; i < values.size(); ++i) {
    store_float(a.mutable_bytes() + i * size_of(dtype), dtype, values[i]);
  }
  return a;
}

template <class T>
array integers(const Shape& shape, const std::vector<T>& values, Dtype dtype) {
  array a = array::empty(shape, dtype);
  if (!values.empty()) {
    std::memcpy(a.mutable_bytes(), values.data(), values.size() * sizeof(T));
  }
  return a;
}

inline array int64s(const Shape& shape, const std::vector<std::int64_t>& values) { return integers(shape, values, Dtype::int64); }

/// The elements of a row-major float array.
inline std::vector<float> values_of(const array& a) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    values.push_back(load_float(a.bytes() + i * a.itemsize(), a.dtype()));
  }
  return values;
}

/// The memory of a row-major array.
inline std::string memory_of(const array& a) {
  EXPECT_TRUE(a.is_row_major());
  return a.size() == 0 ? std::string() : std::string(reinterpret_cast<const char*>(a.bytes()), a.nbytes());
}

class Generator {
 public:
  explicit Generator(unsigned seed) : engine_(seed) {}

  array normal(const Shape& shape, Dtype dtype = Dtype::float32) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) {
      value = distribution(engine_);
    }
    return floats(shape, values, dtype);
  }

  array bits(const Shape& shape, Dtype dtype, unsigned low = 0, unsigned high = 255) {
    std::uniform_int_distribution<unsigned> distribution(low, high);
    array a = array::empty(shape, dtype);
    for (std::size_t i = 0; i < a.nbytes(); ++i) {
      a.mutable_bytes()[i] = static_cast<std::byte>(distribution(engine_));
    }
    return a;
  }

 private:
  std::mt19937 engine_;
};

/// Random quantized weights, and options of a product with them.
struct Weights : QuantizedWeights {
  GatherQmmOptions options;
};

inline Weights random_weights(Generator& random, const Format& format, int group_size, bool transpose, const Shape& leading,
                              std::int64_t N, std::int64_t K, Dtype scale_dtype = Dtype::float32) {
  Shape shape = leading;
  shape.push_back(transpose ? N : K);
  const std::int64_t along = transpose ? K : N;
  shape.push_back(along * format.bits / 32);
  Weights weights;
  weights.w = random.bits(shape, Dtype::uint32);
  shape.back() = along / group_size;
  // Moderate scales: E8M0 2^-7 … 2^4, E4M3 2^-6 … 30.
  switch (format.scale_encoding) {
    case ScaleEncoding::floating: weights.scales = random.normal(shape, scale_dtype); break;
    case ScaleEncoding::e8m0: weights.scales = random.bits(shape, Dtype::uint8, 120, 131); break;
    case ScaleEncoding::e4m3: weights.scales = random.bits(shape, Dtype::uint8, 8, 95); break;
  }
  if (format.has_biases) {
    weights.biases = random.normal(shape, scale_dtype);
  }
  weights.mode = format.mode;
  weights.bits = format.bits;
  weights.group_size = group_size;
  weights.transpose = transpose;
  return weights;
}

/// 4-bit affine, group size 32, float32 scales.
inline Weights affine_weights(unsigned seed, const Shape& leading, std::int64_t N, std::int64_t K, bool transpose = true) {
  Generator random(seed);
  return random_weights(random, *find_format(Mode::affine, 4), 32, transpose, leading, N, K);
}

/// Runs the problem into poisoned memory and compares every output with the reference, within the bound.
inline void expect_within_bound(Lowered& lowered) {
  const Problem& problem = lowered.problem;
  const std::int64_t itemsize = lowered.result.itemsize();
  for (std::int64_t i = 0; i < lowered.result.size(); ++i) {
    store_float(problem.y + i * itemsize, problem.y_dtype, std::numeric_limits<float>::quiet_NaN());
  }
  if (lowered.result.size() != 0) {
    cpu::run(problem);
  }
  std::int64_t at = 0;
  for (std::size_t pair = 0; pair < problem.rhs.size(); ++pair) {
    for (std::int64_t m = 0; m < problem.M; ++m) {
      for (std::int64_t n = 0; n < problem.N; ++n, ++at) {
        const ReferenceValue reference = reference_value(problem, static_cast<std::int64_t>(pair), m, n);
        const float y = load_float(problem.y + at * itemsize, problem.y_dtype);
        ASSERT_LE(error_fraction(problem, reference, y), 1.0)
            << "y[" << pair << ", " << m << ", " << n << "] = " << y << ", expected " << reference.y << " within "
            << error_bound(problem, reference);
      }
    }
  }
}

/// A folder of this test's own, removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::path(testing::TempDir()) / ("gqmm_api_" + std::to_string(getpid()))) {
    std::filesystem::create_directory(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::filesystem::path file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The call throws std::invalid_argument with this text.
template <class Call>
void expect_error(const std::string& message, Call&& call) {
  try {
    (void)call();
    ADD_FAILURE() << "nothing was thrown; expected " << message;
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(message, error.what());
  }
}

}  // namespace gqmm::test

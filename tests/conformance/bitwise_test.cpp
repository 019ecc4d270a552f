// Equality of bits: what a row of the result holds depends on that row of x and on the expert's weights, and on nothing else.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random_problem.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

struct RandomProblem {
  Spec spec;
  Contents contents;
  Operands operands;
};

// Calls `property` for every random problem, each on the instruction set whose turn it is.
void for_each_problem(std::uint64_t first_seed, int count, const std::function<void(RandomProblem&)>& property) {
  const RestoreInstructionSet restore;
  const std::vector<std::string> sets = supported_instruction_sets();
  count = quick() ? count / 16 : count;
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    RandomProblem problem;
    problem.spec = random_spec(first_seed + static_cast<std::uint64_t>(i));
    const std::string& set = sets[to_size(i) % sets.size()];
    const std::string description = fmt::format("on {}: {}", set, describe(problem.spec));
    SCOPED_TRACE(description);
    set_crash_note(description.c_str());
    set_instruction_set(set);
    problem.contents = random_contents(problem.spec);
    add_special_values(problem.spec, problem.contents);
    problem.operands = lay_out_operands(problem.spec, problem.contents);
    problem.operands.options.stream.threads = 1;
    property(problem);
  }
}

array int64_array(const std::vector<std::int64_t>& values) {
  auto memory = std::make_shared<std::vector<std::int64_t>>(values);
  return array::borrow(memory->data(), {static_cast<std::int64_t>(values.size())}, Dtype::int64, {}, memory);
}

// Matrix `from[i]` of y at position i: what the result of the reordered pairs should be.
array reordered(const array& y, const std::vector<std::int64_t>& from) {
  array result = array::empty(y.shape(), y.dtype());
  const auto bytes = to_size(y.dim(-1) * y.dim(-2)) * size_of(y.dtype());
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::memcpy(result.mutable_bytes() + i * bytes, y.bytes() + to_size(from[i]) * bytes, bytes);
  }
  return result;
}

Operands with_pairs(const RandomProblem& problem, const std::vector<std::int64_t>& from, bool sorted) {
  Operands operands = problem.operands;
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  for (const std::int64_t pair : from) {
    lhs.push_back(problem.contents.lhs[to_size(pair)]);
    rhs.push_back(problem.contents.rhs[to_size(pair)]);
  }
  operands.options.lhs_indices = int64_array(lhs);
  operands.options.rhs_indices = int64_array(rhs);
  operands.options.sorted_indices = sorted;
  return operands;
}

std::vector<std::int64_t> all_pairs(const RandomProblem& problem) {
  std::vector<std::int64_t> pairs(problem.contents.rhs.size());
  std::iota(pairs.begin(), pairs.end(), 0);
  return pairs;
}

// Every element, in order, in fresh row-major memory.
array contiguous_copy(const array& a) {
  Random random(0);
  const std::size_t itemsize = size_of(a.dtype());
  std::vector<std::byte> bytes;
  bytes.reserve(to_size(a.size()) * itemsize);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    std::int64_t rest = i;
    const std::byte* address = a.bytes();
    for (int axis = a.rank() - 1; axis >= 0; --axis) {
      address += rest % a.dim(axis) * a.stride(axis);
      rest /= a.dim(axis);
    }
    bytes.insert(bytes.end(), address, address + itemsize);
  }
  return lay_out(bytes, a.shape(), a.dtype(), Layout::contiguous, random);
}

// The same elements, rows a whole number of pages apart: all in one set of a first-level cache, which kernels treat differently.
// The last row in memory borders on an inaccessible page; `reversed`: that is the first row, and strides are negative.
array with_rows_on_pages(const array& a, bool reversed = false) {
  const array dense = contiguous_copy(a);
  const std::int64_t row = a.dim(-1) * a.itemsize();
  const std::int64_t pitch = (row + 4095) / 4096 * 4096;
  const std::int64_t rows = row == 0 ? 0 : dense.size() / a.dim(-1);
  const std::int64_t last = std::max<std::int64_t>(rows - 1, 0) * pitch;
  const std::shared_ptr<std::byte> memory = guarded_memory(to_size(rows == 0 ? 0 : last + row), Edge::upper);
  for (std::int64_t i = 0; i < rows; ++i) {
    std::memcpy(memory.get() + (reversed ? last - i * pitch : i * pitch), dense.bytes() + i * row, to_size(row));
  }
  Strides strides = dense.strides();
  for (std::size_t axis = 0; axis + 1 < strides.size(); ++axis) {
    strides[axis] = strides[axis] / row * (reversed ? -pitch : pitch);
  }
  return array::borrow(memory.get() + (reversed ? last : 0), a.shape(), a.dtype(), strides, memory);
}

// The first row of each matrix in place of all its rows, without a copy: a stride of zero.
array with_first_row_repeated(const array& a) {
  Strides strides = a.strides();
  strides[strides.size() - 2] = 0;
  return array::borrow(a.bytes(), a.shape(), a.dtype(), strides, std::make_shared<array>(a));
}

TEST(Bitwise, EveryInstructionSetGivesTheSameBits) {
  const std::vector<std::string> sets = supported_instruction_sets();
  for_each_problem(100000, 4000, [&](RandomProblem& problem) {
    set_instruction_set(sets.front());
    const array expected = call(problem.operands);
    for (std::size_t i = 1; i < sets.size(); ++i) {
      set_instruction_set(sets[i]);
      EXPECT_TRUE(same_bits(expected, call_poisoned(problem.operands))) << "expected " << sets.front() << ", actual " << sets[i];
    }
  });
}

TEST(Bitwise, ARowAloneIsTheRowInAnyBatch) {
  for_each_problem(110000, 3000, [](RandomProblem& problem) {
    Random random(problem.spec.seed);
    const array batch = call(problem.operands);
    const auto row_bytes = to_size(problem.spec.N) * size_of(batch.dtype());
    const auto pairs = static_cast<std::int64_t>(problem.contents.rhs.size());
    for (int repetition = 0; repetition < 3; ++repetition) {
      const std::int64_t pair = random.integer(0, pairs - 1);
      const std::int64_t m = random.integer(0, problem.spec.M - 1);
      const std::int64_t row = problem.contents.lhs[to_size(pair)] * problem.spec.M + m;
      const std::span<const float> x =
          std::span(problem.contents.x).subspan(to_size(row * problem.spec.K), to_size(problem.spec.K));

      Operands alone = problem.operands;
      alone.x =
          lay_out(bytes_of(x, problem.spec.x_dtype), {1, 1, problem.spec.K}, problem.spec.x_dtype, Layout::contiguous, random);
      alone.options.lhs_indices = int64_array({0});
      alone.options.rhs_indices = int64_array({problem.contents.rhs[to_size(pair)]});
      const array expected =
          array::borrow(batch.bytes() + to_size(pair * problem.spec.M + m) * row_bytes, {1, 1, problem.spec.N}, batch.dtype());
      EXPECT_TRUE(same_bits(expected, call_poisoned(alone)))
          << "expected: pair " << pair << ", m " << m << " of the batch; actual: alone";
    }
  });
}

TEST(Bitwise, AColumnDoesNotDependOnItsNeighbours) {
  for_each_problem(120000, 1000, [](RandomProblem& problem) {
    // Without transpose a slice of N would cut groups; dense b may be cut anywhere.
    if (!problem.spec.transpose || problem.spec.N < 2) {
      return;
    }
    Random random(problem.spec.seed);
    const std::int64_t first = random.integer(1, problem.spec.N - 1);
    const std::int64_t count = random.integer(1, problem.spec.N - first);
    const int axis_from_end = problem.spec.format == nullptr ? 1 : 2;
    const auto slice = [&](const array& a) {
      const auto axis = to_size(a.rank() - axis_from_end);
      Shape shape = a.shape();
      shape[axis] = count;
      return array::borrow(a.bytes() + first * a.strides()[axis], shape, a.dtype(), a.strides(), a.owner());
    };
    const array whole = call(problem.operands);
    Operands cut = problem.operands;
    cut.weights.w = slice(cut.weights.w);
    if (!cut.dense) {
      cut.weights.scales = slice(cut.weights.scales);
    }
    if (cut.weights.biases) {
      cut.weights.biases = slice(*cut.weights.biases);
    }
    Shape shape = whole.shape();
    shape.back() = count;
    const array expected = array::borrow(whole.bytes() + first * whole.itemsize(), shape, whole.dtype(), whole.strides());
    EXPECT_TRUE(same_bits(contiguous_copy(expected), call_poisoned(cut)))
        << "outputs " << first << " … " << first + count - 1 << " alone";
  });
}

TEST(Bitwise, PermutedPairsGivePermutedResults) {
  for_each_problem(130000, 2500, [](RandomProblem& problem) {
    Random random(problem.spec.seed);
    std::vector<std::int64_t> from = all_pairs(problem);
    random.shuffle(std::span(from));
    const array expected = reordered(call(problem.operands), from);
    EXPECT_TRUE(same_bits(expected, call_poisoned(with_pairs(problem, from, false))));
  });
}

TEST(Bitwise, SortedIndicesGiveTheBitsOfUnsortedOnes) {
  for_each_problem(140000, 2500, [](RandomProblem& problem) {
    std::vector<std::int64_t> from = all_pairs(problem);
    const auto key = [&](std::int64_t pair) { return std::pair(problem.contents.rhs[to_size(pair)], pair); };
    std::sort(from.begin(), from.end(), [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
    const array expected = reordered(call(problem.operands), from);
    EXPECT_TRUE(same_bits(expected, call_poisoned(with_pairs(problem, from, false)))) << "sorted, without the promise";
    EXPECT_TRUE(same_bits(expected, call_poisoned(with_pairs(problem, from, true)))) << "sorted, with the promise";
  });
}

TEST(Bitwise, PackedWeightsGiveTheBitsOfWeightsInPlace) {
  for_each_problem(150000, 3000, [](RandomProblem& problem) {
    if (problem.spec.format != nullptr) {
      const PackedWeights packed = pack(problem.operands);
      EXPECT_TRUE(same_bits(call(problem.operands), call_poisoned(problem.operands, &packed)));
    }
  });
}

TEST(Bitwise, TheNumberOfThreadsChangesNothing) {
  for_each_problem(160000, 2500, [](RandomProblem& problem) {
    const array expected = call(problem.operands);
    for (const int threads : {2, 7}) {
      problem.operands.options.stream.threads = threads;
      EXPECT_TRUE(same_bits(expected, call_poisoned(problem.operands))) << "expected 1 thread, actual " << threads;
    }
  });
}

TEST(Bitwise, TheArrangementInMemoryChangesNothing) {
  for_each_problem(170000, 2500, [](RandomProblem& problem) {
    Random random(problem.spec.seed);
    problem.spec.layout = random.one_of(all_layouts);
    problem.spec.index_form = random.one_of(all_index_forms);
    problem.contents = random_contents(problem.spec);
    add_special_values(problem.spec, problem.contents);
    const Operands strided = lay_out_operands(problem.spec, problem.contents);
    Operands dense = strided;
    dense.x = contiguous_copy(strided.x);
    dense.weights.w = contiguous_copy(strided.weights.w);
    dense.weights.scales = contiguous_copy(strided.weights.scales);
    for (std::optional<array>* operand :
         {&dense.weights.biases, &dense.weights.global_scale, &dense.options.lhs_indices, &dense.options.rhs_indices}) {
      if (operand->has_value()) {
        *operand = contiguous_copy(**operand);
      }
    }
    EXPECT_TRUE(same_bits(call(dense), call_poisoned(strided))) << describe(problem.spec);
  });
}

TEST(Bitwise, RowsOfWeightsWholePagesApartChangeNothing) {
  for_each_problem(180000, 800, [](RandomProblem& problem) {
    Operands spread = problem.operands;
    spread.weights.w = with_rows_on_pages(problem.operands.weights.w);
    EXPECT_TRUE(same_bits(call(problem.operands), call_poisoned(spread)));
  });
}

// Random problems seldom have strips of 16 rows with several pairs of lines, which are copied one after the other.
TEST(Bitwise, LongRowsOfWeightsWholePagesApartChangeNothing) {
  const RestoreInstructionSet restore;
  Spec spec;
  spec.pairs = {1, 3, 0, 9, 33};
  spec.seed = 190000;
  for (const Format& format : formats()) {
    spec.format = &format;
    spec.group_size = format.group_sizes.front();
    const std::int64_t two_lines = 1024 / format.bits;  // codes, rounded down
    for (const std::int64_t codes : {two_lines, 2 * two_lines, 3 * two_lines + 1, 4 * two_lines + two_lines / 2}) {
      for (const std::int64_t N : {32, 35}) {
        spec.N = N;
        spec.K = (codes + spec.group_size - 1) / spec.group_size * spec.group_size;
        spec.x_dtype = spec.seed % 4 < 2 ? Dtype::float32 : Dtype::bfloat16;
        ++spec.seed;
        const std::string description = describe(spec);
        SCOPED_TRACE(description);
        set_crash_note(description.c_str());
        const Operands dense = make_operands(spec);
        Operands spread = dense;
        spread.weights.w = with_rows_on_pages(dense.weights.w);
        Operands reversed = dense;
        reversed.weights.w = with_rows_on_pages(dense.weights.w, true);
        Operands repeated = dense;
        repeated.weights.w = with_first_row_repeated(dense.weights.w);
        Operands copied = dense;
        copied.weights.w = contiguous_copy(repeated.weights.w);
        for (const std::string& set : supported_instruction_sets()) {
          set_instruction_set(set);
          const array expected = call(dense);
          EXPECT_TRUE(same_bits(expected, call_poisoned(spread))) << set;
          EXPECT_TRUE(same_bits(expected, call_poisoned(reversed))) << set << ", negative strides";
          EXPECT_TRUE(same_bits(call(copied), call_poisoned(repeated))) << set << ", a stride of zero";
        }
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance

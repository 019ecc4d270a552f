// A group of one rank: it needs no mpiexec.
#include <gqmm/mpi.hpp>

#include <cstdint>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  bool equal = false;
  {
    gqmm::mpi::Engine engine(MPI_COMM_SELF);
    const std::vector<std::int64_t> values = {1, 2, 3};
    const std::vector<std::int64_t> counts = {3};
    const gqmm::array sent = gqmm::array::borrow(values, {3});
    const gqmm::array received = engine.all_to_all({&sent, 1}, counts, counts).front();
    equal = received.shape() == sent.shape() && received.data<std::int64_t>()[2] == 3;
  }
  MPI_Finalize();
  return equal ? 0 : 1;
}

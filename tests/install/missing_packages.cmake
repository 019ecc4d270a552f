# cmake -D SOURCE= -D WORK= -D COMPILER= -P missing_packages.cmake
# Configures the project where no package of Debian's is found, and checks that one message names all of them.
file(REMOVE_RECURSE ${WORK})
set(hidden "")
foreach(package fmt nlohmann_json CLI11 GTest)
  list(APPEND hidden -D CMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK} -G Ninja -D CMAKE_CXX_COMPILER=${COMPILER} ${hidden}
    -D GQMM_DLPACK_INCLUDE_DIR= -D GQMM_COMPILER_FINDS_DLPACK=OFF -D GQMM_BUILD_TESTS=ON -D GQMM_BUILD_CLI=ON
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "Configuring succeeded without any package:\n${output}")
endif()
set(command "  apt-get install libfmt-dev nlohmann-json3-dev libdlpack-dev libcli11-dev libgtest-dev\n")
string(FIND "${output}" "${command}" position)
if(position EQUAL -1)
  message(FATAL_ERROR "The message does not have the line\n${command}It is:\n${output}")
endif()
string(REGEX MATCHALL "CMake Error" errors "${output}")
list(LENGTH errors count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "There are ${count} errors instead of one:\n${output}")
endif()

# cmake -D SENTENCE= -P fault.cmake -- COMMAND…
# Runs the command, a group of ranks with a fault. It must end in time, with another status than 0, and print what matches SENTENCE.
cmake_minimum_required(VERSION 3.25)

set(command "")
set(is_command OFF)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(is_command)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(is_command ON)
  endif()
endforeach()
execute_process(COMMAND ${command} TIMEOUT 60 RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
message("${output}")
if(NOT status MATCHES "^[1-9][0-9]*$")  # 0, or a text if the time was over
  message(FATAL_ERROR "The group ended with status ${status}")
endif()
if(NOT output MATCHES "${SENTENCE}")
  message(FATAL_ERROR "The group did not print ${SENTENCE}")
endif()

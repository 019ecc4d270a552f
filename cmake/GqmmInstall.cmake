# `cmake --install`, after which find_package(gqmm) gives a project the target gqmm::gqmm.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gqmm)
install(TARGETS gqmm EXPORT gqmm-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/gqmm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(EXPORT gqmm-targets NAMESPACE gqmm:: DESTINATION ${package_dir} COMPONENT development)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/gqmm-config.cmake.in ${PROJECT_BINARY_DIR}/gqmm-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/gqmm-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gqmm-config.cmake ${PROJECT_BINARY_DIR}/gqmm-config-version.cmake
  DESTINATION ${package_dir} COMPONENT development)

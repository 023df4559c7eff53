# swtpm_setup, under that name in a directory of its own. Included from src/CMakeLists.txt.
file(GLOB SETUP_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/setup_*.c)
add_executable(compat_swtpm_setup ${SETUP_SRC})
set_target_properties(compat_swtpm_setup PROPERTIES OUTPUT_NAME swtpm_setup
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/compat)
target_link_libraries(compat_swtpm_setup PRIVATE nvk_program)
target_compile_options(compat_swtpm_setup PRIVATE -fPIE)
target_link_options(compat_swtpm_setup PRIVATE -pie)
install(TARGETS compat_swtpm_setup RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/nvkeep/compat)

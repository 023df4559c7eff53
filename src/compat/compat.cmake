# The names under which others know what we do: small programs in a directory of their own, for
# those who put it first in PATH. Included from src/CMakeLists.txt.

# What they have in common: where the state is, its image and its key, this machine's policy.
file(GLOB COMPAT_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/compat_*.c)
nvkeep_layer(nvk_compat ${COMPAT_SRC})
target_link_libraries(nvk_compat PUBLIC nvk_program)
# What the owner of a machine decides is in one place, wherever the programs are.
set(NVKEEP_SYSCONFDIR /etc CACHE PATH "where nvkeep/swtpm.conf is")
target_compile_definitions(nvk_compat PRIVATE NVKEEP_SYSCONFDIR="${NVKEEP_SYSCONFDIR}")

function(nvkeep_compat name)
    add_executable(compat_${name} ${ARGN})
    set_target_properties(compat_${name} PROPERTIES OUTPUT_NAME ${name}
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/compat)
    target_link_libraries(compat_${name} PRIVATE nvk_compat)
    target_compile_options(compat_${name} PRIVATE -fPIE)
    target_link_options(compat_${name} PRIVATE -pie)
    install(TARGETS compat_${name} RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/nvkeep/compat)
endfunction()

file(GLOB EMULATOR_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/emulator_*.c)
nvkeep_compat(swtpm ${CMAKE_SOURCE_DIR}/src/compat/swtpm.c ${EMULATOR_SRC})
file(GLOB IOCTL_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/ioctl_*.c)
nvkeep_compat(swtpm_ioctl ${CMAKE_SOURCE_DIR}/src/compat/swtpm_ioctl.c ${IOCTL_SRC})
file(GLOB BIOS_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/bios_*.c)
nvkeep_compat(swtpm_bios ${CMAKE_SOURCE_DIR}/src/compat/swtpm_bios.c ${BIOS_SRC}
    ${CMAKE_SOURCE_DIR}/src/compat/ioctl_link.c)
file(GLOB SETUP_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/setup_*.c)
nvkeep_compat(swtpm_setup ${SETUP_SRC})

# Certificates: GnuTLS is in these two alone.
file(GLOB CERT_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/cert_*.c)
file(GLOB LOCALCA_SRC CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compat/localca_*.c)
nvkeep_layer(nvk_cert ${CERT_SRC})
target_link_libraries(nvk_cert PUBLIC nvk_program PRIVATE PkgConfig::GNUTLS)
nvkeep_compat(swtpm_cert ${CMAKE_SOURCE_DIR}/src/compat/swtpm_cert.c)
target_link_libraries(compat_swtpm_cert PRIVATE nvk_cert)
nvkeep_compat(swtpm_localca ${CMAKE_SOURCE_DIR}/src/compat/swtpm_localca.c ${LOCALCA_SRC}
    ${CMAKE_SOURCE_DIR}/src/compat/setup_log.c ${CMAKE_SOURCE_DIR}/src/compat/setup_config.c)
target_link_libraries(compat_swtpm_localca PRIVATE nvk_cert)

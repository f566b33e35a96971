# Tests on the CUDA device of this machine: `ctest -L gpu`. Without one they skip. The same programs
# run on simulated devices in a build without CUDA (../cudasim/simulator.cmake).
file(GLOB PARE_GPU_TESTS CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/test_*.c)
foreach(source ${PARE_GPU_TESTS})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE pare_test_support)
  pare_test(${name} gpu 1800 ${name})
  list(APPEND PARE_GPU_PROGRAMS ${name})
endforeach()

file(GLOB PARE_GPU_E2E CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/e2e_*.sh)
foreach(script ${PARE_GPU_E2E})
  get_filename_component(name ${script} NAME_WE)
  pare_test(${name} gpu 1800 env PARE=$<TARGET_FILE:pare_cli> bash ${script})
endforeach()

# The same under NVIDIA's checkers: addresses, races in shared memory, reads of what nobody wrote.
find_program(PARE_COMPUTE_SANITIZER compute-sanitizer HINTS ${CUDAToolkit_BIN_DIR})
foreach(tool memcheck racecheck initcheck)
  foreach(name ${PARE_GPU_PROGRAMS})
    pare_test(${name}_${tool} gpu 3600 bash ${CMAKE_CURRENT_SOURCE_DIR}/gpu/sanitize.sh ${tool}
      $<TARGET_FILE:${name}>)
  endforeach()
endforeach()

# The simulated CUDA backend: the sources of cuda/ compiled by the host's compilers, and what stands
# in for NVIDIA's libraries (docs/cudasim.md). Included from tests/CMakeLists.txt where the CUDA
# headers are (PARE_CUDA_INCLUDE).
file(GLOB PARE_SIM_C CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/*.c)
file(GLOB PARE_SIM_CU CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/*.cu)
file(GLOB PARE_SIM_CPP CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cudasim/sim*.cpp)
file(GLOB PARE_SIM_TESTS CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cudasim/test_*.c
     ${PROJECT_SOURCE_DIR}/tests/gpu/test_*.c)
# A toolkit need not have NCCL's header.
if(NOT EXISTS ${PARE_CUDA_INCLUDE}/nccl.h)
  message(STATUS "nccl.h is not there: several simulated devices are left out")
  list(FILTER PARE_SIM_C EXCLUDE REGEX "nccl")
  list(FILTER PARE_SIM_CPP EXCLUDE REGEX "nccl")
  list(FILTER PARE_SIM_TESTS EXCLUDE REGEX "test_cuda_comm")
endif()

add_library(pare_sim_options INTERFACE)
target_include_directories(pare_sim_options INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/cudasim
  ${PROJECT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/src/backend
  ${PROJECT_SOURCE_DIR}/include)
target_include_directories(pare_sim_options SYSTEM INTERFACE ${PARE_CUDA_INCLUDE})
target_compile_definitions(pare_sim_options INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64)
# Kernels are compiled with few checks on: the simulator's own checks are the point, and the fibres'
# code is run thousands of times.
target_compile_options(pare_sim_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -Wall -Wextra
    -Wno-unknown-pragmas -Wno-attributes -Wno-unused-function -Wno-psabi>)
if(PARE_WERROR)
  target_compile_options(pare_sim_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(PARE_SANITIZE)
  # the sanitizers' checks hide from gcc that a variable is set
  target_compile_options(pare_sim_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized -fsanitize=${PARE_SANITIZE}
      -fno-omit-frame-pointer -fno-sanitize-recover=all -fno-sanitize=vptr>)
  if(PARE_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(pare_sim_options INTERFACE
      "$<$<COMPILE_LANGUAGE:CXX>:SHELL:--param asan-use-after-return=0>")
  endif()
endif()

set_source_files_properties(${PARE_SIM_CU} PROPERTIES LANGUAGE CXX
  COMPILE_OPTIONS "-xc++;-include;${CMAKE_CURRENT_SOURCE_DIR}/cudasim/sim.h")
file(GLOB PARE_SIM_HEADERS CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cudasim/sim*.h)
set_source_files_properties(${PARE_SIM_CU} PROPERTIES OBJECT_DEPENDS "${PARE_SIM_HEADERS}")

add_library(pare_cudasim OBJECT ${PARE_SIM_C} ${PARE_SIM_CU} ${PARE_SIM_CPP})
target_link_libraries(pare_cudasim PUBLIC pare_sim_options PRIVATE pare_options)

# A program over the simulated devices: like any other, with these objects beside the library.
function(pare_sim_program name)
  add_executable(${name} ${ARGN} $<TARGET_OBJECTS:pare_cudasim>)
  target_link_libraries(${name} PRIVATE pare_test_support stdc++)
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/cudasim)
  target_include_directories(${name} SYSTEM PRIVATE ${PARE_CUDA_INCLUDE})
  target_compile_definitions(${name} PRIVATE PARE_CUDASIM)
endfunction()

foreach(source ${PARE_SIM_TESTS})
  get_filename_component(name ${source} NAME_WE)
  pare_sim_program(${name} ${source})
  pare_test(${name} "quick;cudasim" 900 ${name})
endforeach()
if(TARGET test_cuda_comm AND COMMAND mpi_test)
  mpi_test(mpi_cuda_comm 2 $<TARGET_FILE:test_cuda_comm>)
endif()

if(PARE_CLI_SOURCES)
  pare_sim_program(pare_cudasim_cli ${PROJECT_SOURCE_DIR}/tools/cli/main.c)
  target_link_libraries(pare_cudasim_cli PRIVATE pare_cli_parts)
  file(GLOB PARE_SIM_E2E CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cudasim/e2e_*.sh
       ${CMAKE_CURRENT_SOURCE_DIR}/gpu/e2e_*.sh)
  foreach(script ${PARE_SIM_E2E})
    get_filename_component(name ${script} NAME_WE)
    pare_test(${name} "quick;cudasim" 900
      env PARE=$<TARGET_FILE:pare_cudasim_cli> bash ${script})
  endforeach()
  if(TARGET test_cuda_comm AND COMMAND mpi_test)
    pare_test(e2e_mpi_cuda_walk "quick;cudasim;mpi" 900
      env PARE=$<TARGET_FILE:pare_cudasim_cli> CUDASIM_DEVICES=2
      ${PARE_TEST_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/mpi/test_mpi_walk.py --cuda)
  endif()
endif()

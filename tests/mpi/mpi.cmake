# Several processes, started by mpirun: mpi_test(NAME PROCESSES COMMAND...) and, for one of them
# that fails, mpi_failure(NAME PROCESSES FAILURE). Included from tests/CMakeLists.txt where MPI is.
function(mpi_test name processes)
  pare_test(${name} "quick;mpi" 300
            bash ${PROJECT_SOURCE_DIR}/tests/mpi/mpirun.sh ${processes} ${ARGN})
  set_tests_properties(${name} PROPERTIES PROCESSORS ${processes})
endfunction()
function(mpi_failure name processes failure)
  pare_test(${name} "quick;mpi" 300 bash ${PROJECT_SOURCE_DIR}/tests/mpi/mpirun.sh --failure
            ${processes} $<TARGET_FILE:mpi_failures> ${failure})
  set_tests_properties(${name} PROPERTIES PROCESSORS ${processes})
endfunction()

foreach(program test_mpi_ranks test_mpi_stats test_mpi_train mpi_failures)
  add_executable(${program} ${CMAKE_CURRENT_SOURCE_DIR}/mpi/${program}.c)
  target_link_libraries(${program} PRIVATE pare_test_support)
endforeach()

foreach(processes 2 4)
  mpi_test(mpi_ranks_${processes} ${processes} $<TARGET_FILE:test_mpi_ranks>)
  mpi_test(mpi_stats_${processes} ${processes} $<TARGET_FILE:test_mpi_stats>)
  mpi_test(mpi_train_${processes} ${processes} $<TARGET_FILE:test_mpi_train>)
  mpi_failure(mpi_abort_${processes} ${processes} abort)
endforeach()
mpi_failure(mpi_silence 3 silence)
mpi_failure(mpi_kill 3 kill)

if(TARGET pare_cli)
  pare_test(e2e_ranks "quick;mpi" 600 env PARE=$<TARGET_FILE:pare_cli>
            bash ${CMAKE_CURRENT_SOURCE_DIR}/mpi/e2e_ranks.sh)
  set_tests_properties(e2e_ranks PROPERTIES PROCESSORS 2)
  pare_test(e2e_mpi_walk "quick;mpi" 600 env PARE=$<TARGET_FILE:pare_cli>
            ${PARE_TEST_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/mpi/test_mpi_walk.py)
  pare_test(e2e_mpi_walk_long "long;mpi" 3600 env PARE=$<TARGET_FILE:pare_cli>
            ${PARE_TEST_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/mpi/test_mpi_walk.py --long)
  set_tests_properties(e2e_mpi_walk e2e_mpi_walk_long PROPERTIES PROCESSORS 4)
endif()

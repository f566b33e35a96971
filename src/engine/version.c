/* version.c - the version, which CMakeLists.txt states. */
#include "pare/version.h"

const char *pare_version(void)
{
    return PARE_VERSION;
}

/* store_h5_library.c - which HDF5 this was built with. */
#include "pare/store.h"

#include <hdf5.h>

#define TEXT_OF(x) #x
#define VERSION(a, b, c) TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)

const char *pare_store_library(void)
{
    return VERSION(H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
}

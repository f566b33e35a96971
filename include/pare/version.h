/* version.h - which pare this is. */
#ifndef PARE_VERSION_H
#define PARE_VERSION_H

/* "0.1.0". Static text. */
const char *pare_version(void);

#endif

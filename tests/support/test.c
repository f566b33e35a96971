#include "test.h"

#include "base/file.h"

#include <unistd.h>

char *test_folder_make(void)
{
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char *path = malloc(strlen(base) + 32);
    assert_non_null(path);
    sprintf(path, "%s/pare-test-XXXXXX", base);
    assert_non_null(mkdtemp(path));
    return path;
}

void test_folder_remove(char *folder)
{
    assert_ok(pare__remove_tree(folder));
    free(folder);
}

char *test_data(const char *name)
{
    const char *base = getenv("PARE_TEST_DATA");
    if (!base || !*base)
        return NULL;
    char *path = malloc(strlen(base) + strlen(name) + 2);
    assert_non_null(path);
    sprintf(path, "%s/%s", base, name);
    return path;
}

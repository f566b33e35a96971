/* recipe_fixture.c - see the header. */
#include "test.h"

#include "recipe_fixture.h"

pare_recipe *recipe_parse(const char *text)
{
    pare_recipe *recipe = NULL;
    assert_ok(pare_recipe_parse(text, strlen(text), "r.yaml", &recipe));
    assert_non_null(recipe);
    return recipe;
}

void recipe_refuse(const char *text, const char *const *parts)
{
    pare_recipe *recipe = NULL;
    assert_status(pare_recipe_parse(text, strlen(text), "r.yaml", &recipe), PARE_ERR_ARGUMENT);
    assert_null(recipe);
    const char *at = pare_last_error();
    for (size_t i = 0; parts[i]; i++) {
        const char *found = strstr(at, parts[i]);
        if (!found)
            fail_msg("for\n%s\ngot\n%s\nwithout\n%s", text, pare_last_error(), parts[i]);
        at = found + strlen(parts[i]);
    }
}

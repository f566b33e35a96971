/* test_yaml.c - the tree of a recipe, its lines, and what is refused. */
#include "test.h"

#include "base/text.h"
#include "base/yaml.h"

static pare_status parse(const char *text, pare__yaml **root)
{
    return pare__yaml_parse(text, strlen(text), "r.yaml", root);
}

static void a_recipe_is_read_with_its_lines_and_columns(void **state)
{
    (void)state;
    pare__yaml *root;
    assert_ok(parse("# a recipe\n"
                    "model: Qwen/\n"
                    "steps:\n"
                    "  - prune: { pattern: \"2:4\", sparsity: 0.5 }\n"
                    "  - eval:\n",
                    &root));
    assert_int_equal(root->kind, PARE__YAML_MAP);
    assert_int_equal(root->count, 2);
    assert_string_equal(root->keys[0]->text, "model");
    assert_string_equal(root->items[0]->text, "Qwen/");
    assert_false(root->items[0]->quoted);
    assert_int_equal(root->items[0]->line, 2);
    assert_int_equal(root->items[0]->column, 8);
    const pare__yaml *steps = root->items[1];
    assert_int_equal(steps->kind, PARE__YAML_LIST);
    assert_int_equal(steps->count, 2);
    const pare__yaml *prune = steps->items[0]->items[0];
    assert_string_equal(prune->keys[0]->text, "pattern");
    assert_string_equal(prune->items[0]->text, "2:4");
    assert_true(prune->items[0]->quoted);
    assert_string_equal(prune->items[1]->text, "0.5");
    assert_int_equal(prune->keys[1]->line, 4);
    const pare__yaml *nothing = steps->items[1]->items[0];
    assert_int_equal(nothing->kind, PARE__YAML_SCALAR);
    assert_string_equal(nothing->text, "");
    assert_false(nothing->quoted);
    pare__yaml_free(&root);
    assert_null(root);
    pare__yaml_free(&root);
}

static void duplicate_keys_are_kept_in_order(void **state)
{
    (void)state;
    pare__yaml *root;
    assert_ok(parse("b: 1\na: 2\nb: 3\n", &root));
    assert_int_equal(root->count, 3);
    assert_string_equal(root->keys[0]->text, "b");
    assert_string_equal(root->keys[2]->text, "b");
    assert_string_equal(root->items[2]->text, "3");
    pare__yaml_free(&root);
}

static void an_empty_document_has_no_root(void **state)
{
    (void)state;
    static const char *const empty[] = {"", "\n\n", "# only this\n", "---\n", "---\n...\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        pare__yaml *root = (pare__yaml *)state;
        assert_ok(parse(empty[i], &root));
        assert_null(root);
    }
    pare__yaml *root;
    assert_ok(pare__yaml_parse(NULL, 0, "x", &root));
    assert_null(root);
    assert_ok(parse("''", &root));
    assert_true(root->quoted);
    pare__yaml_free(&root);
}

static void what_a_recipe_does_not_need_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } rows[] = {
        {"a: [1, 2\nb: 3\n", "r.yaml:2:"},    {"a: 1\n b: 2\n", "r.yaml:2:"},
        {"a: &x 1\nb: *x\n", "r.yaml:2:4:"},  {"a: !!str 1\n", "r.yaml:1:4:"},
        {"a: 1\n---\nb: 2\n", "r.yaml:2:1:"}, {"a:\n\tb: 1\n", "r.yaml:2:1:"},
        {"a: \"x\\0y\"\n", "r.yaml:1:4:"},    {"ok: 1\n? [1, 2]\n: 3\n", "r.yaml:2:3:"},
        {"a: \"unclosed\n", "r.yaml:2:1:"},   {"a: \xff\xfe\n", "r.yaml:1:"},
        {"a: \x01\n", "r.yaml:1:"},           {"- !x [a]", "r.yaml:1:3:"},
        {"- !x {a: b}", "r.yaml:1:3:"},       {"}", "r.yaml:1:1:"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pare__yaml *root = (pare__yaml *)state;
        assert_status(parse(rows[i].text, &root), PARE_ERR_ARGUMENT);
        assert_null(root);
        if (strncmp(pare_last_error(), rows[i].place, strlen(rows[i].place)) != 0)
            fail_msg("row %zu: %s", i, pare_last_error());
    }
}

static pare_status parse_nested(int depth, const char *open, const char *close)
{
    pare__text text = {0};
    pare__yaml *root;
    for (int i = 0; i < depth; i++)
        pare__text_add(&text, "%s", open);
    for (int i = 0; i < depth; i++)
        pare__text_add(&text, "%s", close);
    pare_status status = pare__yaml_parse(text.data, text.length, "deep", &root);
    pare__yaml_free(&root);
    pare__text_free(&text);
    return status;
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    assert_ok(parse_nested(64, "[", "]"));
    assert_status(parse_nested(65, "[", "]"), PARE_ERR_ARGUMENT);
    assert_status(parse_nested(100000, "[", ""), PARE_ERR_ARGUMENT);
    assert_ok(parse_nested(63, "{a: ", "}"));
    assert_status(parse_nested(20000, "{a: ", "}"), PARE_ERR_ARGUMENT);
    assert_status(parse_nested(5000, "- ", ""), PARE_ERR_ARGUMENT);
}

static void the_number_of_values_is_bounded(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        pare__text text = {0};
        pare__yaml *root;
        for (int i = 0; i < 99999 + extra; i++) /* and the list itself */
            pare__text_add(&text, "- %d\n", i);
        pare_status status = pare__yaml_parse(text.data, text.length, "long", &root);
        assert_int_equal(status, extra ? PARE_ERR_ARGUMENT : PARE_OK);
        if (!extra)
            assert_string_equal(root->items[99998]->text, "99998");
        pare__yaml_free(&root);
        pare__text_free(&text);
    }
}

static void every_beginning_of_a_recipe_is_read_or_refused(void **state)
{
    (void)state;
    static const char text[] =
        "a: {b: [1, \"x\", {c: d}], e: 'f'}\ng:\n  - h: |\n      i\n  - ? j\n";
    for (size_t length = 0; length < sizeof text; length++) {
        char *exact = malloc(length + 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, text, length);
        exact = realloc(exact, length > 0 ? length : 1);
        pare__yaml *root;
        pare_status status = pare__yaml_parse(exact, length, "cut", &root);
        assert_true(status == PARE_OK || (status == PARE_ERR_ARGUMENT && root == NULL));
        pare__yaml_free(&root);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recipe_is_read_with_its_lines_and_columns),
        cmocka_unit_test(duplicate_keys_are_kept_in_order),
        cmocka_unit_test(an_empty_document_has_no_root),
        cmocka_unit_test(what_a_recipe_does_not_need_is_refused_with_its_place),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(the_number_of_values_is_bounded),
        cmocka_unit_test(every_beginning_of_a_recipe_is_read_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

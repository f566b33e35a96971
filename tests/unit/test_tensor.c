#include "test.h"

#include "pare/tensor.h"

static void assert_size(pare_dtype dtype, int rank, const int64_t *shape, int64_t count,
                        int64_t bytes)
{
    int64_t n = -1, size = -1;
    assert_ok(pare_shape_size(dtype, rank, shape, &n, &size));
    assert_int_equal(n, count);
    assert_int_equal(size, bytes);
}

static void sizes_count_elements_and_whole_bytes(void **state)
{
    (void)state;
    assert_size(PARE_F32, 0, NULL, 1, 4);
    assert_size(PARE_F32, 2, (int64_t[]){3, 5}, 15, 60);
    assert_size(PARE_BF16, 3, (int64_t[]){3, 5, 0}, 0, 0);
    assert_size(PARE_F4, 1, (int64_t[]){3}, 3, 2);
    assert_size(PARE_F6_E2M3, 1, (int64_t[]){3}, 3, 3);
    assert_size(PARE_F6_E2M3, 1, (int64_t[]){9}, 9, 7);
    assert_ok(pare_shape_size(PARE_F32, 1, (int64_t[]){3}, NULL, NULL));
}

static void the_largest_size_is_just_below_2_to_the_63(void **state)
{
    (void)state;
    int64_t big = INT64_C(1) << 62;
    assert_size(PARE_U8, 1, &big, big, big);
    assert_size(PARE_F4, 1, (int64_t[]){INT64_MAX}, INT64_MAX, INT64_MAX / 2 + 1);
    assert_status(pare_shape_size(PARE_U16, 1, &big, NULL, NULL), PARE_ERR_DAMAGED);
    assert_status(pare_shape_size(PARE_U8, 2, (int64_t[]){big, 2}, NULL, NULL), PARE_ERR_DAMAGED);
    assert_status(pare_shape_size(PARE_F4, 2, (int64_t[]){INT64_MAX, INT64_MAX}, NULL, NULL),
                  PARE_ERR_DAMAGED);
}

static void an_empty_tensor_may_have_huge_dimensions(void **state)
{
    (void)state;
    assert_size(PARE_F64, 3, (int64_t[]){INT64_MAX, INT64_MAX, 0}, 0, 0);
}

static void impossible_shapes_are_damage(void **state)
{
    (void)state;
    int64_t shape[PARE_MAX_RANK + 1] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    assert_status(pare_shape_size(PARE_F32, -1, shape, NULL, NULL), PARE_ERR_DAMAGED);
    assert_ok(pare_shape_size(PARE_F32, PARE_MAX_RANK, shape, NULL, NULL));
    assert_status(pare_shape_size(PARE_F32, PARE_MAX_RANK + 1, shape, NULL, NULL),
                  PARE_ERR_DAMAGED);
    assert_status(pare_shape_size(PARE_F32, 2, (int64_t[]){0, -1}, NULL, NULL), PARE_ERR_DAMAGED);
}

static void views_carry_their_shape(void **state)
{
    (void)state;
    float x[6];
    pare_tensor v = pare_vector(x, PARE_F32, 6), m = pare_matrix(x, PARE_F32, 2, 3);
    assert_int_equal(v.rank, 1);
    assert_int_equal(m.rank, 2);
    assert_ptr_equal(m.data, x);
    assert_int_equal(pare_tensor_count(&v), 6);
    assert_int_equal(pare_tensor_count(&m), 6);
    pare_tensor scalar = {.data = x, .dtype = PARE_F32};
    assert_int_equal(pare_tensor_count(&scalar), 1);
}

static void any_shape_is_a_matrix_of_its_first_dimension(void **state)
{
    (void)state;
    int64_t rows, cols;
    pare_shape_matrix(0, NULL, &rows, &cols);
    assert_true(rows == 1 && cols == 1);
    pare_shape_matrix(1, (int64_t[]){7}, &rows, &cols);
    assert_true(rows == 7 && cols == 1);
    pare_shape_matrix(4, (int64_t[]){8, 3, 5, 5}, &rows, &cols);
    assert_true(rows == 8 && cols == 75);
}

static void shapes_read_like_lists(void **state)
{
    (void)state;
    char text[32], small[6];
    assert_string_equal(pare_shape_text(0, NULL, text, sizeof text), "[]");
    assert_string_equal(pare_shape_text(1, (int64_t[]){5}, text, sizeof text), "[5]");
    assert_string_equal(pare_shape_text(2, (int64_t[]){64, 128}, text, sizeof text), "[64, 128]");
    assert_string_equal(pare_shape_text(2, (int64_t[]){64, 128}, small, sizeof small), "[64, ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_count_elements_and_whole_bytes),
        cmocka_unit_test(the_largest_size_is_just_below_2_to_the_63),
        cmocka_unit_test(an_empty_tensor_may_have_huge_dimensions),
        cmocka_unit_test(impossible_shapes_are_damage),
        cmocka_unit_test(views_carry_their_shape),
        cmocka_unit_test(any_shape_is_a_matrix_of_its_first_dimension),
        cmocka_unit_test(shapes_read_like_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

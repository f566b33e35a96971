/* test_report.c - reports as text and JSON, from handmade documents of every kind. */
#include "test.h"

#include "pare/report.h"

#include "base/file.h"

/* A report from JSON written with ' for ", through a file as a user would load it. */
static pare_report *load(const char *json)
{
    char *folder = test_folder_make(), *path = NULL, *text = strdup(json);
    pare_report *report = NULL;
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    assert_ok(pare__join(folder, "r.json", &path));
    assert_ok(pare__file_save(path, text, (int64_t)strlen(text)));
    assert_ok(pare_report_load(path, &report));
    free(path);
    free(text);
    test_folder_remove(folder);
    return report;
}

static char *text_of(const char *json)
{
    pare_report *report = load(json);
    char *text = NULL;
    assert_ok(pare_report_text(report, &text));
    assert_true(*text && text[strlen(text) - 1] == '\n');
    pare_report_free(&report);
    assert_null(report);
    return text;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no \"%s\" in\n%s", part, text);
}

/* No line is longer than 120 characters. */
static void fits(const char *text)
{
    size_t width = 0;
    for (const char *c = text; *c; c++) {
        width = *c == '\n' ? 0 : width + (((unsigned char)*c & 0xc0) != 0x80);
        if (width > 120)
            fail_msg("a line of more than 120 columns in\n%s", text);
    }
}

/* clang-format off */
#define TENSOR(name_, fallback_)                                                                   \
    "{'name':'" name_ "','role':'linear','reason':'llama','dtype':'F32','shape':[64,172],"         \
    "'prune':'2:4','quant':'w4g128','fallback':" fallback_ ",'note':null,'bytes_in':44032,"        \
    "'bytes_out':5500,'zeros':5504}"

#define FALLBACK "'groups of 128 do not divide rows of 172: per channel instead'"

#define PLAN                                                                                       \
    "'version':'0.1.0','model':{'path':'m/','format':'hf','architecture':'llama','tensors':3,"     \
    "'parameters':33024,'bytes':132096},'output':{'path':'o.h5','format':'h5','files':1,"          \
    "'bytes':16500},'steps':['prune: magnitude, 2:4','quantize: rtn, w4g128'],'tensors':["         \
    TENSOR("a.weight", "null") "," TENSOR("b.weight", FALLBACK) "," TENSOR("c.weight", FALLBACK)   \
    "],'summary':{'pruned':3,'quantized':3,'left_alone':0,'fallbacks':2},"                         \
    "'predicted':{'passes':1,'read_bytes':132096,'write_bytes':16500,'peak_memory':1048576,"       \
    "'seconds':0.5,'budget':268435456,'threads':2,'isa':'avx2'}"
/* clang-format on */

static void a_plan_groups_equal_tensors_and_fallbacks(void **state)
{
    (void)state;
    char *text = text_of("{'kind':'plan'," PLAN "}");
    has(text, "plan: nothing is done yet");
    has(text, "m/ (hf, llama): 3 tensors, 33,024 parameters");
    has(text, "prune: magnitude, 2:4");
    has(text, "    3  [64, 172]  F32   linear  2:4    w4g128");
    has(text, "2 × ");
    has(text, "groups of 128 do not divide rows of 172: per channel instead: b.weight, c.weight");
    has(text, "1.00 MiB (1,048,576 B)");
    has(text, "1 pass over the model, 2 threads (avx2), memory budget 256.00 MiB");
    assert_null(strstr(text, "actual"));
    assert_null(strstr(text, "result"));
    fits(text);
    free(text);
}

static void a_run_shows_predicted_beside_actual(void **state)
{
    (void)state;
    char *text =
        text_of("{'kind':'run'," PLAN
                ",'actual':{'read_bytes':132000,'write_bytes':16400,'peak_memory':2097152,"
                "'seconds':75.0,'resumed':true,'chunks_done_before':12,"
                "'phases':[{'name':'select','seconds':1.5},{'name':'compress','seconds':2}]},"
                "'result':{'parameters':33024,'zeros':16512,'sparsity':0.5,'pruned':null,"
                "'bits_per_weight':4.25,'bytes_in':132096,'bytes_out':16500,'ratio':8.0058},"
                "'verified':true}");
    has(text, "predicted");
    has(text, "2.00 MiB (2,097,152 B)");
    has(text, "1 min 15 s");
    has(text, "12 chunks were done before");
    has(text, "time by phase: select 1.5 s, compress 2.0 s\n");
    has(text, "33,024 parameters, 16,512 of them zero (50.00 %)");
    has(text, "8.01× smaller, 4.250 bits a weight");
    has(text, "every value was read back and is the same");
    has(text, "50.00 %  a.weight");
    fits(text);
    free(text);
}

static void a_run_of_stages_shows_each_and_the_whole(void **state)
{
    (void)state;
    char *text = text_of(
        "{'kind':'run','model':{'path':'m','format':'hf'},'output':{'path':'o','format':'h5'},"
        "'predicted':{'passes':2,'between_bytes':1024,'peak_memory':5},'actual':{'seconds':2.5},"
        "'result':{'parameters':7,'bytes_in':4096,'bytes_out':1024,'ratio':4},'steps':["
        "{'kind':'run','steps':['prune: wanda, 2:4'],'summary':{'pruned':3},'tensors':[{'name':"
        "'not.shown'}],'result':{'parameters':7}},"
        "{'kind':'eval','steps':['eval: ppl on wiki'],'ppl':12.5},5,{}]}");
    has(text, "step 1 of 4\n  steps    prune: wanda, 2:4\n");
    has(text, "3 pruned");
    has(text, "step 2 of 4\n  steps    eval: ppl on wiki\n  perplexity     12.50000\n");
    has(text, "all steps\n");
    has(text, "disk between steps");
    has(text, "4.00× smaller");
    assert_null(strstr(text, "not.shown"));
    fits(text);
    free(text);
}

static void long_names_are_cut_in_the_middle(void **state)
{
    (void)state;
    char *text = text_of(
        "{'kind':'inspect','path':'m','format':'hf','tensors':[{'name':'model.layers.with.a.very."
        "long.name.that.does.not.end.before.the.line.does.self_attention.q_projection.weight',"
        "'dtype':'BF16','shape':[4096,4096],'role':'linear','reason':'llama','form':'quant',"
        "'scheme':'w4g128','bits_per_weight':4.125,'bytes':8650752,'sparsity':0.5}],"
        "'totals':{'tensors':1,'parameters':16777216,'bytes':8650752,'bits_per_weight':4.125}}");
    has(text, "…");
    has(text, "weight");
    has(text, "w4g128");
    has(text, "50.00 %");
    has(text, "8.25 MiB (8,650,752 B)");
    fits(text);
    free(text);
}

static void an_inspection_lists_stats_files_and_origin(void **state)
{
    (void)state;
    char *text = text_of(
        "{'kind':'inspect','path':'x.h5','format':'h5','architecture':null,'tensors':["
        "{'name':'a','dtype':'F32','shape':[2,3],'role':'linear','reason':'rank 2','form':'dense',"
        "'scheme':null,'bits_per_weight':32,'bytes':24,'stats':{'zeros':1,'sparsity':0.1667,"
        "'min':-1.5,'max':2.25,'mean':0.125,'rms':1,'nans':3,'infs':0}}],"
        "'side_files':[{'name':'tokenizer.json','bytes':2048}],"
        "'provenance':[{'pare':'0.1.0','recipe':'seed: 1\\nsteps: []\\n','sources':{'a':'00'}}],"
        "'totals':{'tensors':1,'parameters':6,'bytes':24,'bits_per_weight':32,'zeros':1,"
        "'sparsity':0.1667,'nans':3,'infs':0}}");
    has(text, "no known architecture");
    has(text, "-1.5");
    has(text, "tokenizer.json");
    has(text, "pare 0.1.0 made it from 1 tensors");
    has(text, "\n      seed: 1\n      steps: []\n");
    has(text, "NOT SOUND: 3 NaN and 0 Inf");
    fits(text);
    free(text);
}

#define COMPARISON                                                                                 \
    "'a':'x','b':'y','equal':false,'differs':true,'all':{'max_abs':0.5,'rms':0.25,'sqnr_db':20.5," \
    "'cosine':0.99,'differing':7,'count':10},'tensors':[{'name':'t','max_abs':0.5,'rms':0.25,"     \
    "'sqnr_db':null,'cosine':null,'differing':7,'count':10}],'only_a':['left'],'only_b':[],"       \
    "'shapes':[{'name':'s','a':[2,3],'b':[3,2]}]"

static void a_comparison_says_what_differs(void **state)
{
    (void)state;
    char *text = text_of("{'kind':'compare','tolerance':0.1," COMPARISON "}");
    has(text, "0.990000000");
    has(text, "inf");
    has(text, "only in a\n  left\n");
    assert_null(strstr(text, "only in b"));
    has(text, "[2, 3]  [3, 2]");
    has(text, "DIFFERENT: past the tolerance of 0.1");
    fits(text);
    free(text);
}

static void a_brief_report_has_no_tensors(void **state)
{
    (void)state;
    pare_report *report = load("{'kind':'compare','tolerance':null," COMPARISON "}");
    char *text = NULL, *json = NULL;
    pare_report_brief(report);
    assert_ok(pare_report_text(report, &text));
    assert_ok(pare_report_json(report, &json));
    assert_null(strstr(json, "\"tensors\""));
    has(json, "\"all\"");
    has(text, "all");
    assert_null(strstr(text, "\n  t "));
    free(text);
    free(json);
    pare_report_free(&report);
    pare_report_brief(NULL);
}

static void devices_say_which_kernels_run(void **state)
{
    (void)state;
    char *text = text_of("{'kind':'devices','cpu':{'model':'Some CPU','cores':1,'isas':["
                         "{'name':'avx512','available':false,'chosen':false},"
                         "{'name':'avx2','available':true,'chosen':true}]},"
                         "'libraries':[{'name':'HDF5','version':'1.10.8','choice':null}],'gpus':[],"
                         "'note':'no CUDA'}");
    has(text, "Some CPU, 1 processor for");
    has(text, "avx512 (this CPU lacks it), avx2 (chosen)");
    has(text, "HDF5 1.10.8");
    has(text, "GPUs       none");
    has(text, "no CUDA");
    free(text);
}

static void json_is_the_document_itself(void **state)
{
    (void)state;
    pare_report *report = load("{'kind':'devices','b':1,'a':[1.5,null]}");
    char *json = NULL;
    assert_ok(pare_report_json(report, &json));
    assert_string_equal(
        json, "{\n  \"kind\": \"devices\",\n  \"b\": 1,\n  \"a\": [\n    1.5,\n    null\n  ]\n}\n");
    free(json);
    pare_report_free(&report);
}

/* A report may come from anybody: whatever is in it, text comes out. */
static void strange_documents_are_shown_without_harm(void **state)
{
    (void)state;
    static const char *const members[] = {
        "",
        ",'model':5,'output':[],'steps':{},'tensors':'x','summary':1,'predicted':[],'actual':1,'"
        "result':2",
        ",'tensors':[1,'a',null,[],{}],'steps':[1,null],'only_a':[1],'shapes':[1],'side_files':[1],"
        "'provenance':[1]",
        ",'tensors':[{'shape':[9223372036854775807,9223372036854775807,9223372036854775807,2,2],'"
        "bytes_in':-5,"
        "'bytes_out':9223372036854775807,'zeros':9223372036854775807},{'shape':[-1],'bytes_in':"
        "9223372036854775807,"
        "'bytes_out':9223372036854775807,'zeros':9223372036854775807}]",
        ",'tensors':[{'name':'a\\u001b[31m\\nb','fallback':'x\\u0007y','note':'\\t'}],'path':'"
        "\\u001b[2J'",
        ",'steps':[{'kind':'eval','ppl':'x','steps':5},{'kind':5,'tensors':3,'result':[],'steps':[{"
        "}]"
        "},7,null]",
        ",'predicted':{'seconds':1e300,'budget':-9223372036854775808,'passes':-1},'actual':{'"
        "resumed':true},"
        "'result':{'sparsity':1e300,'ratio':1e308,'pruned':{}},'cpu':{'isas':[{}]},'libraries':[{}]"
        ",'gpus':[{}]",
    };
    static const char *const kinds[] = {"plan", "run", "inspect", "compare", "devices"};
    char json[2048];
    for (size_t k = 0; k < 5; k++)
        for (size_t m = 0; m < sizeof members / sizeof *members; m++) {
            snprintf(json, sizeof json, "{'kind':'%s'%s}", kinds[k], members[m]);
            char *text = text_of(json);
            for (const char *c = text; *c; c++)
                assert_true(*c == '\n' || (unsigned char)*c >= 0x20);
            free(text);
        }
}

static void the_report_beside_an_output_is_found(void **state)
{
    (void)state;
    char *folder = test_folder_make(), *out = NULL, *beside = NULL, *slash = NULL;
    pare_report *report = NULL;
    assert_ok(pare__join(folder, "out.h5", &out));
    assert_ok(pare__join(folder, "out.h5.report.json", &beside));
    assert_ok(pare__join(folder, "out.h5//", &slash));
    assert_status(pare_report_load(out, &report), PARE_ERR_NOT_FOUND);
    assert_ok(pare__file_save(beside, "{\"kind\":\"run\"}", 14));
    assert_ok(pare_report_load(out, &report));
    pare_report_free(&report);
    assert_ok(pare_report_load(slash, &report));
    pare_report_free(&report);
    assert_ok(pare_report_load(beside, &report));
    pare_report_free(&report);
    assert_ok(pare__file_save(beside, "{\"kind\":\"rum\"}", 14));
    assert_status(pare_report_load(out, &report), PARE_ERR_DAMAGED);
    assert_ok(pare__file_save(beside, "{\"kind\":", 8));
    assert_status(pare_report_load(out, &report), PARE_ERR_DAMAGED);
    assert_null(report);
    free(out);
    free(beside);
    free(slash);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_groups_equal_tensors_and_fallbacks),
        cmocka_unit_test(a_run_shows_predicted_beside_actual),
        cmocka_unit_test(a_run_of_stages_shows_each_and_the_whole),
        cmocka_unit_test(long_names_are_cut_in_the_middle),
        cmocka_unit_test(an_inspection_lists_stats_files_and_origin),
        cmocka_unit_test(a_comparison_says_what_differs),
        cmocka_unit_test(a_brief_report_has_no_tensors),
        cmocka_unit_test(devices_say_which_kernels_run),
        cmocka_unit_test(json_is_the_document_itself),
        cmocka_unit_test(strange_documents_are_shown_without_harm),
        cmocka_unit_test(the_report_beside_an_output_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

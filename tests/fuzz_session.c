/* fuzz_session.c - hostile text for fsb_session.h: session files, imports, queries, index files.
   Built by `make fuzz`; tests/test_session.c includes it and replays the seeds. */
#ifndef FSB_SESSION_H
#define FSB_SESSION_IMPLEMENTATION
#include "fsb_session.h"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

__attribute__((unused)) /* in the fuzzer itself */
static const char *const fuzz_session_seeds[] = {
    "{\"fsb\":1,\"session\":\"a\",\"user\":\"b\",\"title\":\"t\",\"tags\":[\"x\",\"y\"]}\n"
    "{\"id\":1,\"time\":\"2026-11-21T02:11:33.123456789Z\",\"role\":\"user\",\"content\":\"hi\"}\n",
    "{\"fsb\":1,\"session\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"\\ud83d\\ude00\"}]"
    "}",
    "{\"role\":\"user\",\"content\":\"\\udcff\\ud800\\u0000\",\"metadata\":{\"a\":[1,2,{}]},"
    "\"attachments\":[{\"name\":\"n\",\"uri\":\"u\",\"size\":12}]}\n",
    "{\"fsb\":2}\n",
    "{\"fsb\":1,\"session\":7,\"tags\":{}}\n{\"role\":\"\"}\n{\"role\":\"u\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":[-0.1e+5,true,null]}}}",
    "{\"role\":\"a\",\"time\":\"9999-99-99T99:99:99Z\"}\n{\"id\":99999999999999999999,\"role\":"
    "\"a\"}\n",
    "one \"two three\" -four (five OR six*) NOT (seven)",
    "((((a))))",
    "a OR",
    "-a",
    "\"",
    "* * *",
    "caf\xc3\xa9 \xe6\x9d\xb1\xe4\xba\xac \xce\x91\xcf\x83\xcf\x82 \xf0\x9f\x98\x80 \xff\xfe",
};

/* Everything that takes text from outside, each on the same bytes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const fsb_allocator    mem = {fsb_session_libc_, NULL};
    const fsb_session_span text = {(const char *)data, size};
    fsb_session_block     *block = fsb_session_block_new_(&mem);
    fsb_session_buf_       list = fsb_session_buffer_(&mem), again = list;
    fsb_session_walk_      w;
    fsb_session_match_     match;
    fsb_session_record_    r;
    uint16_t               counts[FSB_SESSION_TERMS_];
    if (!block) return 0;
    memset(&match, 0, sizeof match);
    match.text = list;
    if (fsb_session_read_import_(block, text, &w, &list) == 0) {
        const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
        for (size_t i = 0; i < list.size / sizeof *m;
             ++i) { /* what was read is written, and reads */
            fsb_session_message copy;
            again.size = 0;
            fsb_session_put_message_(&again, &m[i]);
            const fsb_session_span line = {again.data, again.size};
            if (fsb_session_line_kind_of_(line) != FSB_SESSION_MESSAGE_LINE_ ||
                fsb_session_read_message_(block, line, &copy) || copy.id != m[i].id ||
                copy.content.size != m[i].content.size ||
                memcmp(copy.content.data, m[i].content.data, copy.content.size) != 0)
                __builtin_trap();
        }
    }
    char *words = fsb_session_block_copy_(block, data, size);
    if (words && fsb_session_parse_query_(&match, &mem, words) == 0) {
        fsb_session_query q;
        memset(&q, 0, sizeof q);
        q.mark = "[", q.unmark = "]", q.snippet_words = 5;
        list.size = 0;
        fsb_session_put_words_(&list, text);
        fsb_session_matches_(&match, list.data, list.size, counts);
        list.size = 0;
        fsb_session_snippet_(&list, &match, &q, text);
    }
    fsb_session_unbuffer_(&match.text);
    for (size_t at = 0; fsb_session_get_record_((const char *)data + at, size - at, &r);
         at += r.size)
        fsb_session_right_((const char *)data + at, &r);
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&again);
    fsb_session_block_free_(block);
    return 0;
}

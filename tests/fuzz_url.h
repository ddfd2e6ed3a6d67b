/* fuzz_url.h - what people type: URLs, join codes, lines of the code file, options' numbers. What
   the fuzzer (make fuzz) began with is in fuzz/url/ and replayed by test_fuzz.c. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "../tools/codes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A code that is taken has the usual form, and that form is taken as it is. */
static void fuzz_code(const char *text)
{
    char code[FSB_CHUNK_CODE_SIZE], again[FSB_CHUNK_CODE_SIZE], less[FSB_CHUNK_CODE_SIZE - 1];
    if (fsb_chunk_code_parse(text, code, sizeof code) != 0) return;
    if (strlen(code) != FSB_CHUNK_CODE_SIZE - 1) abort();
    if (fsb_chunk_code_parse(code, again, sizeof again) != 0 || strcmp(code, again) != 0) abort();
    if (fsb_chunk_code_parse(text, less, sizeof less) != -ENAMETOOLONG) abort();
    again[0] = again[0] == '0' ? '1' : '0'; /* one wrong symbol always shows */
    if (strcmp(code, again) != 0 && fsb_chunk_code_parse(again, code, sizeof code) == 0) abort();
}

/* A URL that is taken ends each of its parts, and hands no option to ssh. What was unquoted is the
   same after another round. */
static void fuzz_url(const char *text)
{
    static tool_url url;
    static char     quoted[3 * PATH_MAX + 8], again[PATH_MAX];
    const int       err = tool_url_parse(text, &url);
    if (err && err != -EINVAL && err != -ENAMETOOLONG) abort();
    if (!memchr(url.address, 0, sizeof url.address) || !memchr(url.share, 0, sizeof url.share) ||
        !memchr(url.code, 0, sizeof url.code) || !memchr(url.path, 0, sizeof url.path) ||
        !memchr(url.port, 0, sizeof url.port))
        abort();
    if (err) return;
    if ((url.scheme == TOOL_SSH || url.scheme == TOOL_SFTP) &&
        (url.address[0] == '-' || url.path[0] == '-' || !url.address[0]))
        abort();
    if (url.scheme == TOOL_UNIX && strncmp(url.address, "unix:/", 6) != 0) abort();
    if (url.scheme == TOOL_TLS && strncmp(url.address, "tls:", 4) != 0) abort();
    tool_url_quote(url.path, 1, quoted, sizeof quoted);
    if (tool_url_unquote(quoted, strlen(quoted), again, sizeof again) != 0) abort();
    if (strcmp(again, url.path) != 0) abort();
    fuzz_code(url.code);
}

/* A line of the code file that is taken has a code of the usual form. */
static void fuzz_line(const char *text)
{
    codes_line line;
    if (codes_parse(text, &line) != NULL) return;
    if (!memchr(line.name, 0, sizeof line.name) || !memchr(line.share, 0, sizeof line.share))
        abort();
    if (!(line.rights & FSB_CHUNK_READ) || line.until < 0) abort();
    fuzz_code(line.code);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1); /* its end is where a reader must stop */
    char  path[FSB_PATH_MAX + 1];
    if (!text) abort();
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    fuzz_url(text), fuzz_code(text), fuzz_line(text);
    (void)codes_until(text);
    if (fsb_path_normalize(text, path, sizeof path) == 0 &&
        (path[0] != '/' || strstr(path, "//") || strstr(path, "/../") || strstr(path, "/./")))
        abort();
    free(text);
    return 0;
}

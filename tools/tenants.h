/* tenants.h - fsb-host's --tokens: several tenants over one port, each in a namespace of its own.
   Include the headers, tokens.h and tool.h before.

       tenants_open(&t, path, exec, logger);           // ends the program if the file is bad
       desc.admit = tenants_admit, desc.admit_user = &t;
       tenants_follow(&t, server);                     // now and then: has the file changed?
       tenants_close(&t);                              // behind the server */
#ifndef FSB_TENANTS_H
#define FSB_TENANTS_H
#include "tokens.h"
#include <pthread.h>

typedef struct tenants {
    const char     *path;
    uint32_t        rights; /* FSB_CHUNK_*: that tokens may give at most */
    fsb_logger      log;
    fsb_tokens     *tokens;
    fsb_tenants    *set;
    pthread_mutex_t lock; /* guards the file, and what its tenants are bound to */
    tokens_file     file;
    fsb_backend   **retired; /* of tenants that are gone or others now; the server may know them */
    size_t          retired_count;
} tenants;

/* ---- one tenant ------------------------------------------------------------------------------ */

typedef struct tenants_bound { /* its folders */
    size_t       count;
    fsb_backend *folders[];
} tenants_bound;

static inline void tenants_gone(void *user, fsb_tenant *tenant)
{
    tenants_bound *b = (tenants_bound *)tenant->data;
    (void)user;
    for (size_t i = 0; b && i < b->count; ++i) b->folders[i]->close(b->folders[i]);
    free(b);
}

static inline int tenants_bind(tenants *t, fsb_tenant *tenant, const tokens_folder *folder,
                               tenants_bound *bound)
{
    char           point[300];
    char           line[PATH_MAX + 160];
    fsb_bind       bind = {0};
    fsb_local_desc desc = {0};
    desc.root = folder->dir, desc.log = t->log;
    desc.allow_exec = (t->rights & FSB_CHUNK_EXEC) != 0;
    desc.exec_env = (const char *const *)environ;
    int err = fsb_local_open(&bind.backend, &desc);
    if (!err) {
        bound->folders[bound->count++] = bind.backend;
        bind.flags = folder->read_only ? (uint32_t)FSB_BIND_READ_ONLY : 0u;
        snprintf(point, sizeof point, "/%s", folder->name);
        err = fsb_mounts_add(tenant->mounts, point, strlen(point), &bind);
    }
    snprintf(line, sizeof line, "tenant %s: folder %s: %s", tenant->name, folder->dir,
             strerror(-err));
    if (err) t->log.fn(t->log.user, FSB_LOG_ERROR, "host/tenant", line);
    return err;
}

/* Called by fsb_tenant_backend() of tenants_admit(), under its lock. */
static inline int tenants_create(void *user, fsb_tenant *tenant)
{
    tenants             *t = (tenants *)user;
    const tokens_tenant *row = tokens_find(&t->file, tenant->name);
    int                  err = row ? 0 : -EACCES;
    if (!row) return err;
    tenants_bound *bound =
        (tenants_bound *)calloc(1, sizeof *bound + row->folder_count * sizeof(fsb_backend *));
    if (!bound) return -ENOMEM;
    tenant->data = bound;
    if (row->handles) tenant->max_handles = row->handles;
    if (row->bytes) tenant->max_bytes = row->bytes;
    for (size_t i = 0; i < row->folder_count && !err; ++i)
        err = tenants_bind(t, tenant, &row->folders[i], bound);
    if (err) tenants_gone(t, tenant), tenant->data = NULL;
    return err;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* An admit() of fsb_chunk_server_desc. */
static inline int tenants_admit(void *user, const char *identity, size_t size, fsb_chunk_pass *pass)
{
    tenants         *t = (tenants *)user;
    fsb_token_claims c;
    char             line[160];
    int              err = fsb_tokens_complete(t->tokens, identity, size, pass->token, &c);
    if (err) return err;
    pthread_mutex_lock(&t->lock);
    tokens_tenant *row = tokens_find(&t->file, c.tenant);
    if (!row) err = -EACCES;
    if (row && !row->backend) err = fsb_tenant_backend(&row->backend, t->set, c.tenant);
    if (!err) {
        pass->share.name = row->name, pass->share.backend = row->backend;
        pass->quick = 1; /* local folders all */
        pass->limits.requests_per_s = row->requests, pass->limits.bytes_per_s = row->rate;
    }
    pthread_mutex_unlock(&t->lock);
    snprintf(line, sizeof line, "token %016llx: tenant %s: %s", (unsigned long long)c.id, c.tenant,
             row ? strerror(-err) : "there is none");
    if (err) t->log.fn(t->log.user, FSB_LOG_WARN, "host/tenant", line);
    pass->share.rights = c.rights & t->rights, pass->expires_ns = c.until_ns;
    return err;
}

static inline int tenants_same(const tokens_tenant *a, const tokens_tenant *b)
{
    if (a->handles != b->handles || a->bytes != b->bytes || a->folder_count != b->folder_count)
        return 0;
    for (size_t i = 0; i < a->folder_count; ++i) {
        const tokens_folder *x = &a->folders[i], *y = &b->folders[i];
        if (strcmp(x->name, y->name) != 0 || strcmp(x->dir, y->dir) != 0 ||
            x->read_only != y->read_only)
            return 0;
    }
    return 1;
}

/* Puts `next` in the place of the file before: tenants that are as they were stay, with their open
   files; the others end. */
static inline int tenants_replace(tenants *t, tokens_file *next)
{
    const size_t  most = t->retired_count + t->file.tenant_count;
    fsb_backend **more =
        (fsb_backend **)realloc(t->retired, (most ? most : 1) * sizeof *t->retired);
    if (!more) return -ENOMEM;
    t->retired = more;
    for (size_t i = 0; i < t->file.tenant_count; ++i) {
        tokens_tenant *old = &t->file.tenants[i], *now = tokens_find(next, old->name);
        if (!old->backend) continue;
        if (now && tenants_same(old, now)) {
            now->backend = old->backend;
            continue;
        }
        (void)fsb_tenants_remove(t->set, old->name);
        t->retired[t->retired_count++] = old->backend;
    }
    const tokens_file old = t->file;
    t->file = *next, *next = old;
    tokens_free(next);
    return 0;
}

/* Has the file changed? A bad one changes nothing, and is told of once. */
static inline void tenants_follow(tenants *t, fsb_chunk_server *server)
{
    static tokens_file next;
    char               wrong[200] = "";
    struct stat        st;
    if (!t->path || stat(t->path, &st) != 0) return;
    if (st.st_mtim.tv_sec == t->file.changed.tv_sec &&
        st.st_mtim.tv_nsec == t->file.changed.tv_nsec)
        return;
    int err = tokens_read(t->path, &next, wrong);
    if (!err)
        err = fsb_tokens_set(t->tokens, next.keys, next.key_count, next.revoked,
                             next.revoked_count);
    if (!err) {
        pthread_mutex_lock(&t->lock);
        err = tenants_replace(t, &next);
        pthread_mutex_unlock(&t->lock);
    }
    if (err) {
        tool_say("the tokens file is left out of account: %s", wrong[0] ? wrong : strerror(-err));
        t->file.changed = st.st_mtim;
    }
    fsb_chunk_server_recheck(server);
}

static inline void tenants_open(tenants *t, const char *path, uint32_t rights, fsb_logger log)
{
    char             wrong[200];
    fsb_tokens_desc  desc = {0};
    fsb_tenants_desc set = {0};
    if (!path) return;
    t->path = path, t->rights = rights, t->log = log;
    int err = tokens_read(path, &t->file, wrong);
    if (err)
        tool_fail("the tokens file %s: %s; fsb token create makes one", path,
                  wrong[0] ? wrong : strerror(-err));
    desc.keys = t->file.keys, desc.key_count = t->file.key_count, desc.log = log;
    err = fsb_tokens_open(&t->tokens, &desc);
    if (!err)
        err = fsb_tokens_set(t->tokens, t->file.keys, t->file.key_count, t->file.revoked,
                             t->file.revoked_count);
    set.create = tenants_create, set.gone = tenants_gone, set.user = t, set.log = log;
    if (!err) err = fsb_tenants_open(&t->set, &set);
    if (!err) err = -pthread_mutex_init(&t->lock, NULL);
    if (err == -ENOSYS) tool_fail("--tokens: this program was built without OpenSSL");
    if (err) tool_fail("--tokens: %s", strerror(-err));
}

static inline void tenants_close(tenants *t)
{
    if (!t->path) return;
    for (size_t i = 0; i < t->retired_count; ++i) t->retired[i]->close(t->retired[i]);
    for (size_t i = 0; i < t->file.tenant_count; ++i) {
        fsb_backend *b = t->file.tenants[i].backend;
        if (b) b->close(b);
    }
    fsb_tenants_close(t->set);
    fsb_tokens_close(t->tokens);
    free(t->retired);
    tokens_free(&t->file);
    pthread_mutex_destroy(&t->lock);
}

/* ---- the status page ------------------------------------------------------------------------- */

enum { TENANTS_SHOWN = 16 }; /* rows of the page, that however many tenants do not overflow */

typedef struct tenants_row {
    char             name[FSB_TOKEN_TENANT_MAX + 1];
    fsb_tenant_stats stats;
} tenants_row;

typedef struct tenants_rows { /* those with the most calls, most first, and all together */
    size_t           count;
    tenants_row      top[TENANTS_SHOWN];
    fsb_tenant_stats sum;
} tenants_rows;

static inline int tenants_add(void *user, const fsb_tenant *tenant, const fsb_tenant_stats *stats)
{
    tenants_rows     *r = (tenants_rows *)user;
    fsb_tenant_stats *sum = &r->sum;
    sum->handles += stats->handles, sum->calls += stats->calls, sum->bytes += stats->bytes;
    sum->refused_handles += stats->refused_handles, sum->refused_bytes += stats->refused_bytes;
    sum->done += stats->done;
    size_t at = r->count;
    while (at && r->top[at - 1].stats.done < stats->done) --at;
    if (at == TENANTS_SHOWN) return 0;
    if (r->count < TENANTS_SHOWN) ++r->count;
    memmove(&r->top[at + 1], &r->top[at], (r->count - at - 1) * sizeof *r->top);
    r->top[at].stats = *stats;
    snprintf(r->top[at].name, sizeof r->top[at].name, "%s", tenant->name);
    return 0;
}

/* One family: a row for each tenant that is shown. `at` is where in fsb_tenant_stats the number
   is, `more` another that is added. */
static inline void tenants_family(status_page *page, const tenants_rows *r, const char *name,
                                  const char *kind, const char *about, size_t at, size_t more)
{
    char label[160];
    if (page->metrics) status_print(page, "# HELP %s %s\n# TYPE %s %s\n", name, about, name, kind);
    else if (r->count) status_print(page, "%s, by tenant\n", about);
    for (size_t i = 0; i < r->count; ++i) {
        const char *stats = (const char *)&r->top[i].stats;
        uint64_t    value, other = 0;
        memcpy(&value, stats + at, sizeof value);
        if (more != at) memcpy(&other, stats + more, sizeof other);
        snprintf(label, sizeof label, "%s{tenant=\"%s\"}", name, r->top[i].name);
        status_number(page, label, kind, NULL, value + other);
    }
}

/* Its numbers on the status page. */
static inline void tenants_status(tenants *t, status_page *page)
{
    fsb_tokens_stats tokens;
    tenants_rows     rows = {0};
    const size_t     handles = offsetof(fsb_tenant_stats, handles);
    const size_t     bytes = offsetof(fsb_tenant_stats, bytes);
    const size_t     done = offsetof(fsb_tenant_stats, done);
    if (!t->path) return;
    fsb_tokens_stat(t->tokens, &tokens);
    (void)fsb_tenants_each(t->set, tenants_add, &rows);
    pthread_mutex_lock(&t->lock);
    const uint64_t count = t->file.tenant_count;
    pthread_mutex_unlock(&t->lock);
    status_number(page, "fsb_tenants", "gauge", "tenants", count);
    status_number(page, "fsb_tenant_handles", "gauge", "files that tenants have open",
                  rows.sum.handles);
    status_number(page, "fsb_tenant_bytes", "gauge", "bytes of tenants on their way",
                  rows.sum.bytes);
    status_number(page, "fsb_tenant_calls_total", "counter", "calls of tenants", rows.sum.done);
    status_number(page, "fsb_tenant_handles_refused_total", "counter",
                  "calls over a tenant's handles", rows.sum.refused_handles);
    status_number(page, "fsb_tenant_bytes_refused_total", "counter",
                  "calls over a tenant's bytes on their way", rows.sum.refused_bytes);
    tenants_family(page, &rows, "fsb_tenant_busiest_handles", "gauge", "open files", handles,
                   handles);
    tenants_family(page, &rows, "fsb_tenant_busiest_bytes", "gauge", "bytes on their way", bytes,
                   bytes);
    tenants_family(page, &rows, "fsb_tenant_busiest_calls_total", "counter", "calls", done, done);
    tenants_family(page, &rows, "fsb_tenant_busiest_refused_total", "counter", "refused calls",
                   offsetof(fsb_tenant_stats, refused_handles),
                   offsetof(fsb_tenant_stats, refused_bytes));
    status_number(page, "fsb_tokens_checked_total", "counter", "tokens looked at", tokens.checks);
    status_number(page, "fsb_tokens_forged_total", "counter", "of these unknown keys",
                  tokens.forged);
    status_number(page, "fsb_tokens_expired_total", "counter", "of these expired", tokens.expired);
    status_number(page, "fsb_tokens_revoked_total", "counter", "of these revoked", tokens.ended);
    status_number(page, "fsb_tokens_malformed_total", "counter", "of these malformed",
                  tokens.malformed);
}
#endif

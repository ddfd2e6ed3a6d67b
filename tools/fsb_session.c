/* fsb_session.c - `fsb session ...`: conversations of a store, listed, searched, moved, mended. */
#define FSB_SESSION_IMPLEMENTATION
#include "fsb_session.h"
#include "tool.h"

int fsb_cmd_session(int argc, char **argv);

typedef struct context {
    fsb_session_store *store;
    const char        *path, *user;
    fsb_session_store_desc desc; /* as the store was opened */
    /* options of the commands */
    const char *tag, *role, *title, *id, *to;
    int         best, format, rebase, all, off;
    uint64_t    limit, at;
} context;

/* `fsb session: what happened: why`; returns the exit status. */
static int fail(const context *c, fsb_session_store *store, const char *what, int err)
{
    char why[400] = "";
    (void)c;
    if (store) fsb_session_store_errmsg(store, why, sizeof why);
    tool_say("%s: %s", what, why[0] ? why : strerror(-err));
    return 1;
}

static void on_log(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)item;
    if (level <= FSB_LOG_WARN) tool_say("%s", text);
}

static void print_time(int64_t ns)
{
    const time_t seconds = (time_t)(ns / 1000000000);
    struct tm    tm;
    char         text[40];
    localtime_r(&seconds, &tm);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M", &tm);
    fputs(text, stdout);
}

/* Text of others on a terminal: control characters would be obeyed, so they are shown as '?'. */
static void print_text(fsb_session_span text, int lines)
{
    for (size_t i = 0; i < text.size; ++i) {
        const unsigned char ch = (unsigned char)text.data[i];
        const int           fine = ch >= 0x20 ? ch != 0x7f : lines && (ch == '\n' || ch == '\t');
        putchar(fine ? ch : lines ? '?' : ' ');
    }
}

static void print_info(const fsb_session_info *s)
{
    printf("%*s%-24s ", (int)(s->depth < 40 ? s->depth * 2 : 80), "", s->id);
    print_time(s->updated_ns);
    printf(" %6llu  ", (unsigned long long)s->message_count);
    print_text(fsb_session_text(s->title), 0);
    for (size_t i = 0; i < s->tag_count; ++i) {
        printf(" #");
        print_text(fsb_session_text(s->tags[i]), 0);
    }
    puts(s->cold ? " (cold)" : "");
}

static int open_one(context *c, const char *id, fsb_session **s)
{
    const int err = fsb_session_open(s, c->store, c->user, id);
    return err ? fail(c, c->store, id, err) : 0;
}

/* ---- [commands] each gets its operands, checked for their number --------------------------- */
static int cmd_list(context *c, int n, char **args)
{
    fsb_session_filter      f;
    fsb_session_list_result l;
    char                    cursor[300] = "";
    uint64_t                left = c->limit ? c->limit : UINT64_MAX;
    memset(&f, 0, sizeof f);
    if (n) { /* ID: it and its forks */
        const int err = fsb_session_tree(c->store, c->user, args[0], &l);
        if (err) return fail(c, c->store, args[0], err);
        for (size_t i = 0; i < l.count; ++i) print_info(&l.at[i]);
        fsb_session_free(l.block);
        return 0;
    }
    f.tag = c->tag, f.cursor = cursor;
    do {
        f.limit = left < 1000 ? (uint32_t)left : 1000;
        const int err = fsb_session_list(c->store, c->user, &f, &l);
        if (err) return fail(c, c->store, "list", err);
        for (size_t i = 0; i < l.count; ++i) print_info(&l.at[i]);
        left -= l.count;
        snprintf(cursor, sizeof cursor, "%s", l.next);
        fsb_session_free(l.block);
    } while (cursor[0] && left);
    return 0;
}

static int cmd_show(context *c, int n, char **args)
{
    fsb_session            *s;
    fsb_session_messages    all;
    const fsb_session_range range = {0, 0, c->limit};
    (void)n;
    if (open_one(c, args[0], &s)) return 1;
    const int err = fsb_session_load(s, &range, &all);
    if (err) return fsb_session_close(s), fail(c, c->store, args[0], err);
    print_info(fsb_session_about(s));
    for (size_t i = 0; i < all.count; ++i) {
        const fsb_session_message *m = &all.at[i];
        printf("\n[%llu] ", (unsigned long long)m->id);
        print_text(fsb_session_text(m->role), 0);
        printf(", ");
        print_time(m->time_ns);
        putchar('\n');
        print_text(m->content, 1);
        putchar('\n');
        for (size_t k = 0; k < m->attachment_count; ++k) {
            const fsb_session_attachment *a = &m->attachments[k];
            printf("  attached: ");
            print_text(fsb_session_text(a->name), 0);
            printf(" %s%s (%llu bytes)\n", a->uri[0] ? a->uri : "sha256:",
                   a->uri[0] ? "" : a->hash, (unsigned long long)a->size);
        }
    }
    fsb_session_free(all.block);
    fsb_session_close(s);
    return 0;
}

static int cmd_search(context *c, int n, char **args)
{
    fsb_session_query q;
    fsb_session_hits  h;
    char              words[4000] = "";
    const int         colour = isatty(STDOUT_FILENO);
    memset(&q, 0, sizeof q);
    for (int i = 0; i < n; ++i) {
        if (strlen(words) + strlen(args[i]) + 2 > sizeof words)
            return fail(c, NULL, "search", -E2BIG);
        strcat(strcat(words, i ? " " : ""), args[i]);
    }
    q.words = words, q.role = c->role, q.order = c->best ? FSB_SESSION_BEST : FSB_SESSION_NEWEST;
    q.limit = c->limit < 100000 ? (uint32_t)c->limit : 100000;
    if (colour) q.mark = "\1", q.unmark = "\2";
    const int err = fsb_session_search(c->store, c->user, &q, &h);
    if (err) return fail(c, c->store, "search", err);
    for (size_t i = 0; i < h.count; ++i) {
        const fsb_session_hit *hit = &h.at[i];
        printf("%s/%llu ", hit->id, (unsigned long long)hit->message_id);
        print_time(hit->time_ns);
        printf(" %s: ", hit->message_id ? hit->role : "title");
        const char *p = hit->snippet.data, *end = p + hit->snippet.size;
        for (; p < end; ++p) {
            if (colour && *p == '\1') fputs("\033[1m", stdout);
            else if (colour && *p == '\2') fputs("\033[0m", stdout);
            else putchar(*p);
        }
        putchar('\n');
    }
    fsb_session_free(h.block);
    return 0;
}

static int cmd_export(context *c, int n, char **args)
{
    fsb_session      *s;
    fsb_session_bytes text;
    (void)n;
    if (open_one(c, args[0], &s)) return 1;
    const int err = fsb_session_export(s, c->format, &text);
    fsb_session_close(s);
    if (err) return fail(c, c->store, args[0], err);
    const int bad = fwrite(text.span.data, 1, text.span.size, stdout) != text.span.size ||
                    fflush(stdout);
    fsb_session_free(text.block);
    return bad ? fail(c, NULL, "standard output", -errno) : 0;
}

static int cmd_import(context *c, int n, char **args)
{
    int status = 0;
    for (int i = 0; i < n; ++i) {
        FILE  *f = strcmp(args[i], "-") == 0 ? stdin : fopen(args[i], "rb");
        char  *text = NULL;
        size_t size = 0, room = 0, got = 1;
        while (f && got) {
            if (room - size < 65536) text = (char *)realloc(text, room += room + 65536);
            if (!text) return fail(c, NULL, args[i], -ENOMEM);
            size += got = fread(text + size, 1, room - size, f);
        }
        const fsb_session_span span = {text, size};
        fsb_session           *s = NULL;
        if (!f || ferror(f)) status = fail(c, NULL, args[i], -errno);
        else {
            const int err = fsb_session_import(&s, c->store, c->user, c->id, span);
            if (err) status = fail(c, c->store, args[i], err);
            else puts(fsb_session_about(s)->id);
        }
        fsb_session_close(s);
        free(text);
        if (f && f != stdin) fclose(f);
    }
    return status;
}

static int kind_of(const char *path)
{
    struct stat  st;
    const size_t n = strlen(path);
    if (stat(path, &st) == 0) return S_ISDIR(st.st_mode) ? FSB_SESSION_FILES : FSB_SESSION_SQLITE;
    return (n > 3 && strcmp(path + n - 3, ".db") == 0) ||
                   (n > 7 && strcmp(path + n - 7, ".sqlite") == 0)
               ? FSB_SESSION_SQLITE
               : FSB_SESSION_FILES;
}

static int by_creation(const void *a, const void *b)
{
    const fsb_session_info *x = (const fsb_session_info *)a, *y = (const fsb_session_info *)b;
    return (x->created_ns > y->created_ns) - (x->created_ns < y->created_ns);
}

/* Copies each session, and only then deletes it here; parents first, so that forks stay forks. */
static int cmd_move(context *c, int n, char **args)
{
    fsb_session_store      *to = NULL;
    fsb_session_store_desc  d = c->desc;
    fsb_session_list_result l;
    fsb_session_filter      f;
    int                     status = 0;
    if (!c->to || (!n && !c->all))
        tool_usage("move needs --to STORE, and IDs or --all");
    d.path = c->to, d.kind = kind_of(c->to), d.durability = FSB_SESSION_SYNC_SAVE;
    int err = fsb_session_store_open(&to, &d);
    if (err) return fail(c, NULL, c->to, err);
    memset(&f, 0, sizeof f);
    f.limit = UINT32_MAX;
    if ((err = fsb_session_list(c->store, c->user, &f, &l)) != 0)
        return fsb_session_store_close(to), fail(c, c->store, "list", err);
    fsb_session_info *all = (fsb_session_info *)calloc(l.count + 1, sizeof *all);
    size_t            count = 0;
    for (size_t i = 0; all && i < l.count; ++i)
        for (int k = 0; k < (c->all ? 1 : n); ++k)
            if (c->all || strcmp(args[k], l.at[i].id) == 0) all[count++] = l.at[i];
    if (!c->all && count != (size_t)n)
        status = fail(c, NULL, "move: not all of these are here", -ENOENT);
    else if (count) qsort(all, count, sizeof *all, by_creation);
    for (size_t i = 0; !status && i < count; ++i)
        if ((err = fsb_session_copy(to, c->store, c->user, all[i].id)) != 0)
            status = fail(c, to, all[i].id, err);
    for (size_t i = count; !status && i-- > 0;)
        if ((err = fsb_session_delete(c->store, c->user, all[i].id)) != 0)
            status = fail(c, c->store, all[i].id, err);
    if (!status) printf("%zu moved to %s\n", count, c->to);
    free(all);
    fsb_session_free(l.block);
    fsb_session_store_close(to);
    return status;
}

static int cmd_fork(context *c, int n, char **args)
{
    fsb_session     *s, *made;
    fsb_session_info info;
    (void)n;
    if (open_one(c, args[0], &s)) return 1;
    memset(&info, 0, sizeof info);
    info.id = c->id, info.title = c->title;
    const int err = fsb_session_fork(&made, s, c->at, &info);
    fsb_session_close(s);
    if (err) return fail(c, c->store, args[0], err);
    puts(fsb_session_about(made)->id);
    fsb_session_close(made);
    return 0;
}

static int cmd_merge(context *c, int n, char **args)
{
    fsb_session *into, *from;
    uint64_t     ids[100];
    if (n > 102) return fail(c, NULL, "merge", -E2BIG);
    for (int i = 2; i < n; ++i) ids[i - 2] = tool_number("ID", args[i], 1, UINT64_MAX);
    if (open_one(c, args[0], &into)) return 1;
    if (open_one(c, args[1], &from)) return fsb_session_close(into), 1;
    const int err = fsb_session_merge(into, from,
                                      n > 2       ? FSB_SESSION_MERGE_PICK
                                      : c->rebase ? FSB_SESSION_MERGE_REBASE
                                                  : FSB_SESSION_MERGE_APPEND,
                                      ids, n > 2 ? (size_t)n - 2 : 0);
    fsb_session_close(into), fsb_session_close(from);
    return err ? fail(c, c->store, "merge", err) : 0;
}

static int cmd_tag(context *c, int n, char **args)
{
    fsb_session *s;
    int          err = 0;
    if (open_one(c, args[0], &s)) return 1;
    for (int i = 1; !err && i < n; ++i) err = fsb_session_tag(s, args[i], !c->off);
    fsb_session_close(s);
    return err ? fail(c, c->store, args[0], err) : 0;
}

static int cmd_rm(context *c, int n, char **args)
{
    int status = 0;
    for (int i = 0; i < n; ++i) {
        const int err = fsb_session_delete(c->store, c->user, args[i]);
        if (err) status = fail(c, c->store, args[i], err);
    }
    return status;
}

static int cmd_stat(context *c, int n, char **args)
{
    fsb_session_users users;
    fsb_session_stat  st;
    (void)n, (void)args;
    int err = c->all ? fsb_session_store_users(c->store, &users) : 0;
    if (err) return fail(c, c->store, "stat", err);
    for (size_t i = 0; i < (c->all ? users.count : 1); ++i) {
        const char *user = c->all ? users.at[i] : c->user;
        if ((err = fsb_session_store_stat(c->store, user, &st)) != 0)
            return fail(c, c->store, user, err);
        printf("%s: %llu sessions (%llu cold), %llu messages, %llu bytes\n", user,
               (unsigned long long)st.sessions, (unsigned long long)st.cold,
               (unsigned long long)st.messages, (unsigned long long)st.bytes);
    }
    if (c->all) fsb_session_free(users.block);
    return 0;
}

static int cmd_repair(context *c, int n, char **args)
{
    fsb_session_repair_result r;
    (void)n, (void)args;
    const int err = fsb_session_store_repair(c->store, c->user, &r);
    if (err) return fail(c, c->store, "repair", err);
    printf("%llu sessions, %llu messages, %llu bad lines put aside, %llu sessions lost\n",
           (unsigned long long)r.sessions, (unsigned long long)r.messages,
           (unsigned long long)r.bad_lines, (unsigned long long)r.lost_sessions);
    return r.lost_sessions ? 1 : 0;
}

static const struct command {
    const char *name;
    int         least, most; /* operands */
    int         writes;
    int (*run)(context *c, int n, char **args);
    const char *usage;
} commands[] = {
    {"list", 0, 1, 0, cmd_list,
     "[--tag TAG] [--limit N] [ID]  newest first; with ID, it and its forks"},
    {"show", 1, 1, 0, cmd_show, "[--limit N] ID                the messages, or the newest N"},
    {"search", 1, 1000, 0, cmd_search, "[--best] [--role ROLE] [--limit N] WORDS..."},
    {"export", 1, 1, 0, cmd_export, "[--format json|lines|markdown] ID"},
    {"import", 1, 100000, 1, cmd_import, "[--id ID] FILE...             - is standard input"},
    {"move", 0, 100000, 1, cmd_move,
     "--to STORE [--all] [ID...]      into another store, of either kind"},
    {"fork", 1, 1, 1, cmd_fork, "[--at MESSAGE] [--id ID] [--title TITLE] ID"},
    {"merge", 2, 102, 1, cmd_merge, "[--rebase] INTO FROM [MESSAGE...]"},
    {"tag", 2, 100, 1, cmd_tag, "[--off] ID TAG..."},
    {"rm", 1, 100000, 1, cmd_rm, "ID..."},
    {"stat", 0, 0, 0, cmd_stat, "[--all]                         of all users"},
    {"repair", 0, 0, 1, cmd_repair,
     "                              bad lines aside, search index anew"}};
enum { COMMANDS = (int)(sizeof commands / sizeof commands[0]) };

static void usage(FILE *out)
{
    fputs("usage: fsb session [--store STORE] [--user USER] COMMAND ...\n\n"
          "STORE is a folder (plain files) or a database (NAME.db, NAME.sqlite, or a file that is\n"
          "there); default: $FSB_SESSIONS, else ~/.local/share/fsb/sessions. USER: default "
          "$USER.\n\n",
          out);
    for (int i = 0; i < COMMANDS; ++i)
        fprintf(out, "  %-7s %s\n", commands[i].name, commands[i].usage);
}

static int parse_format(const char *text)
{
    static const char *const names[3] = {"json", "lines", "markdown"};
    for (int i = 0; i < 3; ++i)
        if (strcmp(names[i], text) == 0) return i;
    tool_usage("--format: '%s' is not json, lines or markdown", text);
    return 0;
}

enum { OPT_TAG = 256, OPT_ROLE, OPT_TITLE, OPT_ID, OPT_TO, OPT_LIMIT, OPT_AT, OPT_FORMAT, OPT_BEST,
       OPT_REBASE, OPT_ALL, OPT_OFF };

/* Which options a command takes: what it does not know is refused, not ignored. */
static int allowed(const char *command, int option)
{
    static const struct { int option; const char *commands;
    } table[] = {
        {OPT_TAG, " list "},       {OPT_ROLE, " search "},   {OPT_TITLE, " fork "},
        {OPT_ID, " fork import "}, {OPT_TO, " move "},       {OPT_LIMIT, " list show search "},
        {OPT_AT, " fork "},        {OPT_FORMAT, " export "}, {OPT_BEST, " search "},
        {OPT_REBASE, " merge "},   {OPT_ALL, " move stat "}, {OPT_OFF, " tag "}};
    char word[40];
    snprintf(word, sizeof word, " %s ", command);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; ++i)
        if (table[i].option == option) return strstr(table[i].commands, word) != NULL;
    return 1;
}

/* Returns the exit status, or -1 to go on. */
static int take_option(context *c, int option, const char *value)
{
    switch (option) {
    case 's': c->path = value; break;
    case 'u': c->user = value; break;
    case OPT_TAG: c->tag = value; break;
    case OPT_ROLE: c->role = value; break;
    case OPT_TITLE: c->title = value; break;
    case OPT_ID: c->id = value; break;
    case OPT_TO: c->to = value; break;
    case OPT_LIMIT: c->limit = tool_number("--limit", value, 0, UINT64_MAX); break;
    case OPT_AT: c->at = tool_number("--at", value, 0, UINT64_MAX); break;
    case OPT_FORMAT: c->format = parse_format(value); break;
    case OPT_BEST: c->best = 1; break;
    case OPT_REBASE: c->rebase = 1; break;
    case OPT_ALL: c->all = 1; break;
    case OPT_OFF: c->off = 1; break;
    case 'h': usage(stdout); return 0;
    case 'V': puts("fsb session " FSB_VERSION); return 0;
    default: usage(stderr); return 2;
    }
    return -1;
}

static int run(context *c, const struct command *command, int n, char **args)
{
    char        home[4096];
    const char *dir = getenv("HOME");
    if (!c->path) c->path = getenv("FSB_SESSIONS");
    if (!c->path || !*c->path) {
        snprintf(home, sizeof home, "%s/.local/share/fsb/sessions", dir ? dir : ".");
        c->path = home;
    }
    char *p = c->path == home && command->writes ? home + 1 : NULL; /* makes ~/.local/share/fsb */
    for (; p && (p = strchr(p, '/')) != NULL; ++p) {
        *p = '\0';
        mkdir(home, 0700);
        *p = '/';
    }
    if (!c->user && !(c->user = getenv("USER"))) c->user = "default";
    memset(&c->desc, 0, sizeof c->desc);
    c->desc.path = c->path, c->desc.kind = kind_of(c->path), c->desc.log.fn = on_log;
    c->desc.read_only = !command->writes && access(c->path, W_OK) != 0;
    struct stat st;
    if (!command->writes && stat(c->path, &st)) return fail(c, NULL, c->path, -errno);
    const int err = fsb_session_store_open(&c->store, &c->desc);
    if (err) return fail(c, NULL, c->path, err);
    const int status = command->run(c, n, args);
    fsb_session_store_close(c->store);
    return status;
}

int fsb_cmd_session(int argc, char **argv)
{
    static const struct option options[] = {{"store", 1, NULL, 's'},
                                            {"user", 1, NULL, 'u'},
                                            {"tag", 1, NULL, OPT_TAG},
                                            {"role", 1, NULL, OPT_ROLE},
                                            {"title", 1, NULL, OPT_TITLE},
                                            {"id", 1, NULL, OPT_ID},
                                            {"to", 1, NULL, OPT_TO},
                                            {"limit", 1, NULL, OPT_LIMIT},
                                            {"at", 1, NULL, OPT_AT},
                                            {"format", 1, NULL, OPT_FORMAT},
                                            {"best", 0, NULL, OPT_BEST},
                                            {"rebase", 0, NULL, OPT_REBASE},
                                            {"all", 0, NULL, OPT_ALL},
                                            {"off", 0, NULL, OPT_OFF},
                                            {"help", 0, NULL, 'h'},
                                            {"version", 0, NULL, 'V'},
                                            {NULL, 0, NULL, 0}};
    context c;
    int     given[64], count = 0, option;
    memset(&c, 0, sizeof c);
    tool_name = "fsb session";
    optind = 1;
    while ((option = getopt_long(argc, argv, "s:u:hV", options, NULL)) != -1) {
        const int status = take_option(&c, option, optarg);
        if (status >= 0) return status;
        if (count < 64) given[count++] = option;
    }
    const char *name = optind < argc ? argv[optind++] : NULL;
    int         i = 0;
    while (name && i < COMMANDS && strcmp(commands[i].name, name) != 0) ++i;
    if (!name || i == COMMANDS) {
        if (name) tool_say("there is no command %s", name);
        return usage(stderr), 2;
    }
    for (int k = 0; k < count; ++k)
        if (!allowed(name, given[k]))
            tool_usage("%s does not take that option; it is: %s %s", name, name,
                       commands[i].usage);
    const int n = argc - optind;
    if (n < commands[i].least || n > commands[i].most)
        tool_usage("it is: %s %s", name, commands[i].usage);
    return run(&c, &commands[i], n, argv + optind);
}

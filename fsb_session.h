/* fsb_session.h - v0.1.0 - conversations, saved and searched - single-header C library (C99, C++11)

   A store keeps the conversations (sessions) of many users: as plain files, one JSON Lines file a
   session, readable with any tool, or in one SQLite database. Both give the same answers.

   QUICK START   (extracted, compiled and run by the tests)
       #define FSB_SESSION_IMPLEMENTATION      // in ONE source file, before its other includes
       #include "fsb_session.h"                // (FSB_IMPLEMENTATION enables every fsb header)
       #include <stdio.h>
       #include <string.h>

       int main(void)
       {
           fsb_session_store_desc desc;
           memset(&desc, 0, sizeof desc);      // a zero field means "use the default"
           desc.path = "chats";                // a folder; it is made if need be
           fsb_session_store *store = NULL;
           if (fsb_session_store_open(&store, &desc) < 0) return 1;

           fsb_session_info info;
           memset(&info, 0, sizeof info);
           info.user = "ann", info.title = "Trip to Oslo";
           fsb_session *chat = NULL;
           if (fsb_session_create(&chat, store, &info) < 0) return 1;

           fsb_session_message message;
           memset(&message, 0, sizeof message);
           message.role = "user";
           message.content = fsb_session_text("When does the ferry leave?");
           if (fsb_session_append(chat, &message, 1) < 0) return 1;
           fsb_session_close(chat);

           fsb_session_query query;
           memset(&query, 0, sizeof query);
           query.words = "ferry OR train";
           fsb_session_hits hits;
           if (fsb_session_search(store, "ann", &query, &hits) < 0) return 1;
           for (size_t i = 0; i < hits.count; ++i)
               printf("%s: %s\n", hits.at[i].title, hits.at[i].snippet.data);
           fsb_session_free(hits.block);
           fsb_session_store_close(store);
           return 0;
       }

   NEEDS     Linux, POSIX threads (-pthread). With a strict -std=, include it before libc's headers.
             A store of files belongs on a local file system: O_APPEND and flock must work.
   OPTIONS   FSB_WITH_SQLITE (-lsqlite3) the SQLite store; FSB_WITH_ZSTD (-lzstd) compression of
             cold sessions. FSB_STATIC, FSB_API: once, before the first fsb header; linkage only.
   USERS     Every call names a user and sees that user's sessions only, counts and words included.
   NAMES     Session ids and users: 1 to 200 bytes of UTF-8, no control characters, no '/', not
             beginning with '.'. Else -EINVAL, too long -ENAMETOOLONG.
   FILES     path/USER/ID.jsonl: a first line {"fsb":1,...} about the session, later ones like it
             replace it; then one line a message. Bytes that are not UTF-8 stand as \udc80..\udcff,
             as Python writes them (surrogateescape). An append is one write(2) without a lock; what
             it must fear (another process that rewrites or removes the file) marks the old file
             first, and the append finds the mark. So a file may be read at any time, but let no
             editor save it while a program appends to it. Beside: .words (the search index, .titles
             with no_search: delete it and it is rebuilt), .blobs (attachments by SHA-256),
             ID.jsonl.zst (cold), and path/.pulse (counters of the writes under way; leave it alone
             while in use).
   SEARCH    words, "phrases", begin*, AND (implied), OR, NOT or -word, parentheses. Case and
             accents do not count; each Chinese or Japanese character is a word. A message is
             indexed up to its first MiB. A title with its tags is found as message 0. Messages
             that a fork shares with its parent are found in the parent. FSB_SESSION_BEST ranks
             the newest FSB_SESSION_RANKED matches.
   THREADS   A store may be used by many threads, a session by one at a time. Several processes may
             use one store; after fork(2) only one of the two may go on with open sessions.
             No thread is started.
   MEMORY    The desc's allocator only; without one, realloc and free. SQLite and zstd have their
             own. What a call loads comes as one block: fsb_session_free() when done with it.
   ERRORS    Negative errno values, and fsb_session_store_errmsg() says more. -ENOENT no such
             session or message, -EEXIST there is one, -EINVAL a bad name, role or query, -EILSEQ
             metadata that is not JSON, -EMSGSIZE a message over desc.max_message, JSON over 900 MB,
             or for SQLite an attachment over 1e9 bytes, -EDQUOT the user's quota, -ESTALE somebody
             else changed the session: load it again, -ENOTSUP a newer format, -EBADMSG damaged,
             -EROFS read-only, -ENOSPC disk full, -ETIMEDOUT another process held the database for
             desc.busy_ms, -ENOSYS not compiled in, or no search.
   DOES NOT  sum what it keeps (but for attachments and cold sessions), encrypt, speak to models,
             count tokens, notify of changes, or lock a conversation for one writer: appends of
             several processes all stay, in the order they came.
   LICENCE   MIT, at the end of this file.
   CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_SESSION_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_SESSION_H
#define FSB_SESSION_H
#include <stddef.h>
#include <stdint.h>

/* ==== fsb common 1: the same text in every fsb_*.h (master: tests/blocks/common.h) ============ */
#ifndef FSB_COMMON
#define FSB_COMMON 1
#define FSB_VERSION "0.1.0"
#if !defined(FSB_API) && defined(FSB_STATIC)
#define FSB_API static __attribute__((unused)) /* private to this source file, silent if unused */
#elif !defined(FSB_API)
#define FSB_API extern
#endif

/* Memory. One hook, so that it cannot be half overridden: new_size 0 frees, ptr NULL allocates,
   else it resizes. Returns memory aligned as malloc's, NULL when there is none.
   fn NULL: realloc and free of libc. Threads: any. */
typedef struct fsb_allocator {
    void *(*fn)(void *user, void *ptr, size_t old_size, size_t new_size);
    void *user;
} fsb_allocator;

/* Log. `item` is a stable name to filter by ("chunk/frame"), `text` one line without newline; both
   are valid during the call only. fn NULL: silence. Threads: any; it must not call the object. */
typedef enum fsb_log_level {
    FSB_LOG_ERROR, FSB_LOG_WARN, FSB_LOG_INFO, FSB_LOG_DEBUG
} fsb_log_level;
typedef struct fsb_logger {
    void (*fn)(void *user, fsb_log_level level, const char *item, const char *text);
    void *user;
} fsb_logger;

/* Threads. run() has job(arg) called once, soon, on another thread, and returns 0 without waiting,
   or -EAGAIN if it cannot. A job system fits it. run NULL: what the object's docs say. */
typedef struct fsb_runner {
    int (*run)(void *user, void (*job)(void *arg), void *arg);
    void *user;
} fsb_runner;

#define FSB_UNLIMITED UINT64_MAX /* in a desc: no bound at all, where 0 would mean the default */
#elif FSB_COMMON != 1
#error "fsb headers of different releases are mixed: copy them together"
#endif
/* ==== end of fsb common ======================================================================= */
#ifdef __cplusplus
extern "C" {
#endif

/* ---- [types] --------------------------------------------------------------------------------- */
typedef struct fsb_session_store fsb_session_store; /* opened once, shared by threads */
typedef struct fsb_session       fsb_session;       /* one conversation, open */
typedef struct fsb_session_block fsb_session_block; /* memory of something loaded */

enum { FSB_SESSION_NAME_MAX = 200 /* bytes of an id, a user, a role, a tag */,
       FSB_SESSION_RANKED = 2000 /* newest matches that FSB_SESSION_BEST puts in order */ };

/* Bytes: any, NUL too. In what is loaded, a '\0' stands behind them. */
typedef struct fsb_session_span {
    const char *data;
    size_t      size;
} fsb_session_span;

static inline fsb_session_span fsb_session_text(const char *text) /* NULL: empty */
{
    fsb_session_span span = {text, 0};
    while (text && text[span.size]) ++span.size;
    return span;
}

/* A reference (uri), or bytes that the store keeps once per user, however often they are attached:
   give data when saving; what is loaded has the hash instead, for fsb_session_blob(). */
typedef struct fsb_session_attachment {
    const char      *name, *type; /* file name, media type; NULL or "": not known */
    const char      *uri;         /* where it is; NULL or "": stored here */
    const char      *hash;        /* SHA-256 in hex, of what is stored */
    uint64_t         size;        /* bytes; of data if that is given */
    fsb_session_span data;
} fsb_session_attachment;

typedef struct fsb_session_message {
    uint64_t         id;       /* ascending in a session; 0: the next one */
    int64_t          time_ns;  /* since the epoch; 0: now */
    const char      *role;     /* "system", "user", "assistant", "tool", or any other name */
    fsb_session_span content;  /* any bytes */
    fsb_session_span metadata; /* JSON, kept verbatim; empty: none */
    const fsb_session_attachment *attachments;
    size_t                        attachment_count;
} fsb_session_message;

/* What is known of a session. Create and set take id to metadata, the store fills in the rest. */
typedef struct fsb_session_info {
    const char        *user;         /* whose it is */
    const char        *id;           /* NULL or "" in create: one is made up */
    const char        *title;        /* UTF-8; NULL: "" */
    const char *const *tags;         /* names, in the order given */
    size_t             tag_count;
    fsb_session_span   config;       /* JSON, kept verbatim; empty: none */
    fsb_session_span   metadata;     /* likewise */
    int64_t            created_ns;   /* 0 in create: now */
    int64_t            updated_ns;   /* the latest of its messages' times and its other changes */
    const char        *parent;       /* id of the session it was forked from, or "" */
    uint64_t           fork_id;      /* the last message taken from the parent */
    uint64_t           message_count, last_id; /* last_id 0: no message yet */
    uint64_t           bytes;        /* what it holds, as the quota counts */
    uint32_t           depth;        /* fsb_session_tree(): steps below the root; else 0 */
    uint32_t           cold;         /* 1: compressed, until it is written to */
} fsb_session_info;

/* When is a save on the disk? All survive the end of the process, kill -9 included. */
enum {
    FSB_SESSION_SYNC_CHECKPOINT, /* at fsb_session_store_sync(), at close, at a rewrite or WAL
                                    checkpoint: a power loss takes the last saves, nothing older */
    FSB_SESSION_SYNC_NONE,       /* when the system likes */
    FSB_SESSION_SYNC_SAVE        /* before the save returns */
};
enum { FSB_SESSION_FILES, FSB_SESSION_SQLITE }; /* kinds of store */

typedef struct fsb_session_store_desc {
    const char *path;         /* required: a folder (files), a database file (SQLite) */
    int         kind;         /* FSB_SESSION_FILES (default), FSB_SESSION_SQLITE */
    int         durability;   /* FSB_SESSION_SYNC_* (default CHECKPOINT) */
    int         read_only;    /* 1: every change answers -EROFS (default 0) */
    int         no_search;    /* 1: indexes no words itself, search answers -ENOSYS (default 0) */
    int32_t     hot_sessions; /* closed sessions kept ready, 1 to 1000 (default 16; -1: none) */
    uint32_t    busy_ms;      /* patience with another process's write, ms (default 10000) */
    uint64_t    max_message;  /* bytes of content in a message, up to 900 MB (default 256 MiB) */
    uint64_t    user_bytes, user_sessions; /* quota of each user (default FSB_UNLIMITED) */
    int64_t     expire_ms;    /* a sweep deletes what was not touched for so long (default never) */
    int64_t     cold_ms;      /* a sweep compresses what was not (default never) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_session_store_desc;

/* ---- [store] --------------------------------------------------------------------------------- */
/* Opens the store, making it if it is not there (unless read_only). *desc is copied; *out is the
   caller's until fsb_session_store_close().
   Errors: EINVAL, ENOMEM, ENOSYS, ENOTSUP, EBADMSG, EROFS, those of open. Threads: any. */
FSB_API int fsb_session_store_open(fsb_session_store **out, const fsb_session_store_desc *desc);

/* Closes the store; its sessions must be closed. NULL is fine.
   Errors: none. Threads: no other user left. */
FSB_API void fsb_session_store_close(fsb_session_store *store);

/* Writes the text of the last failure on this store, with '\0', into buf of size bytes.
   Errors: none. Threads: any; of several failing threads the last one is told. */
FSB_API void fsb_session_store_errmsg(fsb_session_store *store, char *buf, size_t size);

/* Puts on the disk what is saved so far.
   Errors: EIO, ENOSPC. Threads: any; may block. */
FSB_API int fsb_session_store_sync(fsb_session_store *store);

typedef struct fsb_session_stat {
    uint64_t sessions, messages, bytes, cold;
} fsb_session_stat;
/* Counts what a user has.
   Errors: as list. Threads: any; may block. */
FSB_API int fsb_session_store_stat(fsb_session_store *store, const char *user,
                                   fsb_session_stat *out);

typedef struct fsb_session_users {
    const char *const *at;
    size_t             count;
    fsb_session_block *block; /* the caller's */
} fsb_session_users;
/* Lists the users that have sessions, sorted. This is for the operator: it is the one call that
   sees more than one user. Errors: ENOMEM, EIO. Threads: any; may block. */
FSB_API int fsb_session_store_users(fsb_session_store *store, fsb_session_users *out);

typedef struct fsb_session_sweep_result {
    uint64_t expired, compressed, blobs_removed;
} fsb_session_sweep_result;
/* Applies desc.expire_ms and desc.cold_ms to a user's sessions as of now_ns (0: now), and drops
   stored attachments that no message names. out may be NULL.
   Errors: as delete; ENOSYS cold_ms without zstd. Threads: any; may block. */
FSB_API int fsb_session_store_sweep(fsb_session_store *store, const char *user, int64_t now_ns,
                                    fsb_session_sweep_result *out);

typedef struct fsb_session_repair_result {
    uint64_t sessions, messages; /* looked at */
    uint64_t bad_lines;          /* files: put aside into ID.jsonl.bad */
    uint64_t lost_sessions;      /* cannot be read at all: left as they are, told to the log */
} fsb_session_repair_result;
/* Reads everything a user has, takes bad lines out of files, makes the search index anew. Each
   finding is told to the log. out may be NULL.
   Errors: EROFS, EBADMSG SQLite itself finds the database damaged. Threads: any; may block. */
FSB_API int fsb_session_store_repair(fsb_session_store *store, const char *user,
                                     fsb_session_repair_result *out);

/* Frees what a call loaded. NULL is fine. Errors: none. Threads: any. */
FSB_API void fsb_session_free(fsb_session_block *block);

/* ---- [session] ------------------------------------------------------------------------------- */
/* Makes a session from *info (copied) and opens it; close it with fsb_session_close().
   Errors: EEXIST, EINVAL, ENAMETOOLONG, EILSEQ, EDQUOT. Threads: any; may block. */
FSB_API int fsb_session_create(fsb_session **out, fsb_session_store *store,
                               const fsb_session_info *info);

/* Opens a session. A torn last line, left by a crash, is ended, and told to the log.
   Errors: ENOENT, EINVAL, ENOTSUP. Threads: any; may block. */
FSB_API int fsb_session_open(fsb_session **out, fsb_session_store *store, const char *user,
                             const char *id);

/* Closes the session; the store may keep it ready (desc.hot_sessions). NULL is fine.
   Errors: none. Threads: no other user of this session left. */
FSB_API void fsb_session_close(fsb_session *session);

/* What is known of it; valid until the next call on the session.
   Errors: none. Threads: one at a time per session. */
FSB_API const fsb_session_info *fsb_session_about(fsb_session *session);

enum { FSB_SESSION_TITLE = 1, FSB_SESSION_TAGS = 2, FSB_SESSION_CONFIG = 4,
       FSB_SESSION_METADATA = 8 };
/* Takes from *info what `fields` (FSB_SESSION_TITLE | ...) names.
   Errors: EINVAL, EILSEQ, ESTALE. Threads: one at a time per session; may block. */
FSB_API int fsb_session_set(fsb_session *session, const fsb_session_info *info, unsigned fields);

/* Adds a tag (on 1) or takes it off (on 0); 0 either way if there is nothing to do.
   Errors: as set. Threads: one at a time per session; may block. */
FSB_API int fsb_session_tag(fsb_session *session, const char *tag, int on);

/* Deletes a session. Its forks keep what they shared with it.
   Errors: ENOENT, EINVAL. Threads: any; may block. */
FSB_API int fsb_session_delete(fsb_session_store *store, const char *user, const char *id);

/* ---- [messages] ------------------------------------------------------------------------------ */
/* Adds messages at the end, all of them or none. Their cost does not depend on the length of the
   session. Others may have appended meanwhile: these come after theirs.
   Errors: EINVAL, EILSEQ, EMSGSIZE, EDQUOT, ENOENT it was deleted, ENOSPC.
   Threads: one at a time per session; may block. */
FSB_API int fsb_session_append(fsb_session *session, const fsb_session_message *messages,
                               size_t count);

/* Makes the session's messages these: finds by a rolling hash where they begin to differ from what
   is stored, and writes from there on; if the rest is only longer, this is an append. Roles,
   contents, metadata and attachments are compared; a time or id of 0 keeps the stored one.
   Errors: as append; ESTALE. Threads: one at a time per session; may block. */
FSB_API int fsb_session_save(fsb_session *session, const fsb_session_message *messages,
                             size_t count);

typedef struct fsb_session_batch {
    fsb_session               *session;
    const fsb_session_message *messages; /* as in fsb_session_save() */
    size_t                     count;
} fsb_session_batch;
/* Saves many sessions of one store in one commit: all or none (files: one flush at the end, and
   what was saved before a failure stays). No session twice.
   Errors: as save. Threads: one at a time per session; may block. */
FSB_API int fsb_session_save_many(fsb_session_store *store, const fsb_session_batch *batch,
                                  size_t count);

/* Replaces the message that has message->id. Errors: ENOENT, ESTALE and as append.
   Threads: one at a time per session; may block. */
FSB_API int fsb_session_edit(fsb_session *session, const fsb_session_message *message);

/* Removes the messages with ids first to last (UINT64_MAX: to the end).
   Errors: ESTALE. Threads: one at a time per session; may block. */
FSB_API int fsb_session_erase(fsb_session *session, uint64_t first, uint64_t last);

typedef struct fsb_session_range {
    uint64_t first_id, last_id; /* both included; 0: from the first, to the last */
    uint64_t newest;            /* only the last so many of these; 0: all */
} fsb_session_range;
typedef struct fsb_session_messages {
    const fsb_session_message *at;
    size_t                     count;
    uint64_t bad_lines,
        first_bad_line; /* files: lines that cannot be read, and the first, from 1 */
    fsb_session_block         *block;   /* the caller's */
} fsb_session_messages;
/* Loads messages; range NULL: all.
   Errors: ENOENT, EBADMSG, ENOMEM. Threads: one at a time per session; may block. */
FSB_API int fsb_session_load(fsb_session *session, const fsb_session_range *range,
                             fsb_session_messages *out);

typedef struct fsb_session_bytes {
    fsb_session_span   span;
    fsb_session_block *block; /* the caller's */
} fsb_session_bytes;
/* Loads a stored attachment by its hash.
   Errors: ENOENT, EINVAL, EBADMSG it does not have that hash. Threads: any; may block. */
FSB_API int fsb_session_blob(fsb_session_store *store, const char *user, const char *hash,
                             fsb_session_bytes *out);

/* ---- [collection] ---------------------------------------------------------------------------- */
typedef struct fsb_session_filter {
    const char *tag;                /* NULL: any */
    const char *parent;             /* only the forks of this session; NULL: any */
    int64_t     since_ns, until_ns; /* updated in this time, both included; 0: no bound */
    const char *cursor;             /* the last page's `next`; NULL or "": from the newest */
    uint32_t    limit;              /* sessions a page (default 100) */
} fsb_session_filter;
typedef struct fsb_session_list_result {
    const fsb_session_info *at; /* newest first */
    size_t                  count;
    const char             *next; /* cursor of the next page; "": this was the last */
    fsb_session_block      *block; /* the caller's */
} fsb_session_list_result;
/* Lists a user's sessions by updated_ns, newest first; filter NULL: the newest 100.
   Errors: EINVAL, ENOMEM. Threads: any; may block. */
FSB_API int fsb_session_list(fsb_session_store *store, const char *user,
                             const fsb_session_filter *filter, fsb_session_list_result *out);

/* Lists a session and all that was forked from it, from it, ..., each followed by its own forks,
   oldest first. Errors: ENOENT. Threads: any; may block. */
FSB_API int fsb_session_tree(fsb_session_store *store, const char *user, const char *id,
                             fsb_session_list_result *out);

enum { FSB_SESSION_NEWEST, FSB_SESSION_BEST }; /* orders of hits */
typedef struct fsb_session_query {
    const char *words;              /* see SEARCH above */
    const char *role;               /* only messages of this role; NULL: any, and titles */
    int64_t     since_ns, until_ns; /* said in this time, both included; 0: no bound */
    int         order;              /* FSB_SESSION_NEWEST (default), FSB_SESSION_BEST */
    uint32_t    skip, limit;        /* hits left out first, and returned (default 20) */
    const char *mark, *unmark;      /* around each hit in a snippet (default "[" and "]") */
    uint32_t    snippet_words;      /* words a snippet has, 1 to 200 (default 24) */
} fsb_session_query;
typedef struct fsb_session_hit {
    const char      *id, *title; /* of the session */
    uint64_t         message_id; /* 0: the title or a tag was hit */
    int64_t          time_ns;    /* of the message; of the session's creation for message 0 */
    const char      *role;       /* "" for message 0 */
    double           score;      /* FSB_SESSION_BEST: higher is better */
    fsb_session_span snippet;    /* the words around the first hit, on one line */
} fsb_session_hit;
typedef struct fsb_session_hits {
    const fsb_session_hit *at;
    size_t                 count;
    fsb_session_block     *block; /* the caller's */
} fsb_session_hits;
/* Finds messages and titles. What was saved before is found, by whichever process.
   Errors: EINVAL a bad query, E2BIG too long a one, ENOSYS. Threads: any; may block. */
FSB_API int fsb_session_search(fsb_session_store *store, const char *user,
                               const fsb_session_query *query, fsb_session_hits *out);

/* ---- [branches] ------------------------------------------------------------------------------ */
/* Makes a new session that begins with the messages of this one up to at_id (0: all). *info as in
   create, NULL for all defaults; the title is the parent's unless given. SQLite copies nothing.
   Errors: as create; ENOENT no message at_id. Threads: one at a time per session; may block. */
FSB_API int fsb_session_fork(fsb_session **out, fsb_session *session, uint64_t at_id,
                             const fsb_session_info *info);

enum {
    FSB_SESSION_MERGE_APPEND, /* from's messages since the fork are added at the end of into */
    FSB_SESSION_MERGE_REBASE, /* from becomes all of into, then its own messages since the fork */
    FSB_SESSION_MERGE_PICK    /* from's messages with the ids given are added at the end of into */
};
/* Brings two sessions of one store and user together; where they part is found from their parent
   and fork_id (unrelated ones part at the beginning). Copied messages get new ids. ids and count
   are for PICK.
   Errors: EINVAL, ENOENT no such id, ESTALE. Threads: one at a time per session; may block. */
FSB_API int fsb_session_merge(fsb_session *into, fsb_session *from, int how, const uint64_t *ids,
                              size_t count);

/* ---- [exchange] ------------------------------------------------------------------------------ */
enum {
    FSB_SESSION_JSON,     /* one object: the session line's members, and "messages" */
    FSB_SESSION_LINES,    /* JSON Lines, as the store of files has them */
    FSB_SESSION_MARKDOWN  /* for reading; cannot be imported */
};
/* Writes a session in this format into memory.
   Errors: EINVAL, ENOMEM. Threads: one at a time per session; may block. */
FSB_API int fsb_session_export(fsb_session *session, int format, fsb_session_bytes *out);

/* Makes a session from exported JSON or JSON Lines, in full or not at all. It goes to `user`, and
   is named `id`, or as it was if that is NULL. *out may be closed at once; NULL: not wanted.
   Errors: EBADMSG not such a text, and as create. Threads: any; may block. */
FSB_API int fsb_session_import(fsb_session **out, fsb_session_store *store, const char *user,
                               const char *id, fsb_session_span text);

/* Copies a session with its stored attachments into another store (of whichever kind) without
   loss: ids, times, branch links. A session already there is refused.
   Errors: EEXIST, ENOENT, and as create. Threads: any; may block. */
FSB_API int fsb_session_copy(fsb_session_store *to, fsb_session_store *from, const char *user,
                             const char *id);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FSB_SESSION_H */

/* ==== IMPLEMENTATION: [memory] [time] [utf8] [json] [hash] [sha256] [words] [query] [rank]
   [snippet] [object] [lines] [log] [shelf] [files] [sqlite] [connection] [branch] [index]
   [database] [checks] [saving] [exchange] [public] ============================================ */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_SESSION_IMPLEMENTATION)) && \
    !defined(FSB_SESSION_DONE_)
#define FSB_SESSION_DONE_ /* a second inclusion is harmless */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef FSB_WITH_SQLITE
#include <sqlite3.h>
#endif
#ifdef FSB_WITH_ZSTD
#include <zstd.h>
#endif
#ifndef AT_EMPTY_PATH /* only there if _GNU_SOURCE came in time */
#error "fsb_session.h: POSIX is hidden; include it first, or compile with -D_GNU_SOURCE"
#else

enum {
    FSB_SESSION_FORMAT_ = 1,               /* of the files and of the database */
    FSB_SESSION_INDEXED_ = 1 << 20,        /* bytes of a message that search looks at */
    FSB_SESSION_WORD_ = 64,                /* bytes of a word that count */
    FSB_SESSION_KEPT_ = 4096,              /* bytes of a found text that a search keeps */
    FSB_SESSION_TERMS_ = 32,               /* in a query */
    FSB_SESSION_TOKENS_ = 128,             /* likewise, with operators and parentheses */
    FSB_SESSION_JSON_DEPTH_ = 512,         /* nesting that a line may have */
    FSB_SESSION_METADATA_DEPTH_ = 500,     /* nesting that metadata may have inside it */
    FSB_SESSION_LINE_KEEP_ = 64 << 10,     /* bytes of buffer that an idle session keeps */
    FSB_SESSION_BATCH_ = 128,              /* messages indexed in one go */
    FSB_SESSION_PULSES_ = 4096             /* counters in .pulse, 8 bytes each */
};

/* ---- [memory] -------------------------------------------------------------------------------- */
static void *fsb_session_libc_(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user, (void)old_size;
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static void *fsb_session_take_(const fsb_allocator *mem, size_t size)
{
    void *p = mem->fn(mem->user, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void fsb_session_drop_(const fsb_allocator *mem, void *p, size_t size)
{
    if (p) mem->fn(mem->user, p, size, 0);
}

/* Bytes that grow. The first failure sticks in err, so that a writer checks once, at the end. */
typedef struct fsb_session_buf_ {
    const fsb_allocator *mem;
    char                *data;
    size_t               size, cap;
    int                  err;
} fsb_session_buf_;

static fsb_session_buf_ fsb_session_buffer_(const fsb_allocator *mem)
{
    fsb_session_buf_ b = {NULL, NULL, 0, 0, 0};
    b.mem = mem;
    return b;
}

static int fsb_session_reserve_(fsb_session_buf_ *b, size_t more)
{
    if (b->err) return b->err;
    if (more <= b->cap - b->size) return 0;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < SIZE_MAX / 2 && cap - b->size < more) cap *= 2;
    if (cap - b->size < more) return b->err = -ENOMEM;
    char *data = (char *)b->mem->fn(b->mem->user, b->data, b->cap, cap);
    if (!data) return b->err = -ENOMEM;
    b->data = data, b->cap = cap;
    return 0;
}

static void fsb_session_put_(fsb_session_buf_ *b, const void *data, size_t size)
{
    if (!size || fsb_session_reserve_(b, size)) return;
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void fsb_session_puts_(fsb_session_buf_ *b, const char *text)
{
    fsb_session_put_(b, text, strlen(text));
}

static void fsb_session_put_uint_(fsb_session_buf_ *b, uint64_t n)
{
    char  digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + n % 10); while (n /= 10);
    fsb_session_put_(b, digits + at, sizeof digits - at);
}

static void fsb_session_unbuffer_(fsb_session_buf_ *b)
{
    fsb_session_drop_(b->mem, b->data, b->cap);
    b->data = NULL, b->size = b->cap = 0, b->err = 0;
}

/* A block is what a call loaded: pieces from a few large allocations, freed at once. */
typedef struct fsb_session_piece_ {
    struct fsb_session_piece_ *next;
    size_t                     cap, used; /* bytes, this header included */
} fsb_session_piece_;

struct fsb_session_block {
    fsb_allocator       mem;
    fsb_session_piece_ *pieces;
    size_t              next_cap;
};

static fsb_session_block *fsb_session_block_new_(const fsb_allocator *mem)
{
    fsb_session_block *block = (fsb_session_block *)fsb_session_take_(mem, sizeof *block);
    if (block) block->mem = *mem, block->next_cap = 1024;
    return block;
}

/* Memory aligned for any struct here; NULL when there is none. */
static void *fsb_session_block_take_(fsb_session_block *block, size_t size)
{
    if (size > SIZE_MAX / 4) return NULL;
    size = (size + 7) & ~(size_t)7;
    fsb_session_piece_ *piece = block->pieces;
    if (!piece || piece->cap - piece->used < size) {
        size_t cap = block->next_cap;
        while (cap < size + sizeof *piece) cap *= 2;
        piece = (fsb_session_piece_ *)block->mem.fn(block->mem.user, NULL, 0, cap);
        if (!piece) return NULL;
        piece->next = block->pieces, piece->cap = cap, piece->used = sizeof *piece;
        block->pieces = piece;
        if (block->next_cap < (size_t)1 << 18) block->next_cap *= 2;
    }
    void *p = (char *)piece + piece->used;
    piece->used += size;
    return p;
}

static char *fsb_session_block_copy_(fsb_session_block *block, const void *data, size_t size)
{
    char *p = size < SIZE_MAX ? (char *)fsb_session_block_take_(block, size + 1) : NULL;
    if (!p) return NULL;
    if (size) memcpy(p, data, size);
    p[size] = '\0';
    return p;
}

static void fsb_session_block_free_(fsb_session_block *block)
{
    if (!block) return;
    const fsb_allocator mem = block->mem;
    while (block->pieces) {
        fsb_session_piece_ *next = block->pieces->next;
        fsb_session_drop_(&mem, block->pieces, block->pieces->cap);
        block->pieces = next;
    }
    fsb_session_drop_(&mem, block, sizeof *block);
}

/* ---- [time] ---------------------------------------------------------------------------------- */
static int64_t fsb_session_now_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar, and back: years begin in March. */
static int64_t fsb_session_days_(int64_t year, int64_t month, int64_t day)
{
    if (month < 3) --year, month += 12;
    const int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * (month - 3) + 2) / 5 +
           day - 1 - 719468;
}

static void fsb_session_date_(int64_t days, int64_t *year, int64_t *month, int64_t *day)
{
    days += 719468;
    const int64_t era = (days >= 0 ? days : days - 146096) / 146097, d = days - era * 146097;
    const int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    const int64_t of_year = d - (365 * y + y / 4 - y / 100), m = (5 * of_year + 2) / 153;
    *day = of_year - (153 * m + 2) / 5 + 1;
    *month = m < 10 ? m + 3 : m - 9;
    *year = y + era * 400 + (*month <= 2);
}

static char *fsb_session_pair_(char *out, int64_t value, char behind) /* 00 to 99 */
{
    const unsigned v = (unsigned)value, tens = v / 10;
    out[0] = (char)('0' + tens), out[1] = (char)('0' + (v - tens * 10)), out[2] = behind;
    return out + 3;
}

enum { FSB_SESSION_TIME_ = 30 }; /* bytes of 2026-11-21T02:11:33.123456789Z */
static void fsb_session_time_text_(int64_t ns, char *out)
{
    int64_t seconds = ns / 1000000000, rest = ns % 1000000000, year, month, day;
    if (rest < 0) rest += 1000000000, --seconds;
    int64_t days = seconds / 86400, second = seconds % 86400;
    if (second < 0) second += 86400, --days;
    fsb_session_date_(days, &year, &month, &day);
    const int64_t micros = rest / 1000;
    fsb_session_pair_(out, year / 100, '0');
    out = fsb_session_pair_(out + 2, year % 100, '-');
    out = fsb_session_pair_(out, month, '-');
    out = fsb_session_pair_(out, day, 'T');
    out = fsb_session_pair_(out, second / 3600, ':');
    out = fsb_session_pair_(out, second / 60 % 60, ':');
    out = fsb_session_pair_(out, second % 60, '.');
    fsb_session_pair_(out, micros / 10000, '0');
    fsb_session_pair_(out + 2, micros / 100 % 100, '0');
    fsb_session_pair_(out + 4, micros % 100, '0');
    fsb_session_pair_(out + 6, rest % 1000 / 10, '0');
    out[8] = (char)('0' + rest % 10), out[9] = 'Z';
}

static int fsb_session_number_(const char *p, size_t digits, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < digits; ++i) {
        if (p[i] < '0' || p[i] > '9') return 0;
        *out = *out * 10 + (p[i] - '0');
    }
    return 1;
}

/* Reads RFC 3339, with "Z" or an offset, as people may write it into a file. 1 if it is one. */
static int fsb_session_time_parse_(const char *p, size_t n, int64_t *ns)
{
    int64_t y, mo, d, h, mi, s, frac = 0, unit = 100000000, oh = 0, om = 0;
    if (n < 20 || !fsb_session_number_(p, 4, &y) || !fsb_session_number_(p + 5, 2, &mo) ||
        !fsb_session_number_(p + 8, 2, &d) || !fsb_session_number_(p + 11, 2, &h) ||
        !fsb_session_number_(p + 14, 2, &mi) || !fsb_session_number_(p + 17, 2, &s) ||
        p[4] != '-' || p[7] != '-' || (p[10] != 'T' && p[10] != ' ') || p[13] != ':' ||
        p[16] != ':' || mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || s > 60)
        return 0;
    if (y < 1678 || y > 2261) return 0; /* what an int64 of ns holds */
    size_t at = 19;
    if (p[at] == '.')
        for (++at; at < n && p[at] >= '0' && p[at] <= '9'; ++at, unit /= 10)
            frac += (p[at] - '0') * unit;
    if (at + 1 == n && (p[at] == 'Z' || p[at] == 'z')) {
        /* UTC */
    } else if (at + 6 == n && (p[at] == '+' || p[at] == '-') && p[at + 3] == ':' &&
               fsb_session_number_(p + at + 1, 2, &oh) && fsb_session_number_(p + at + 4, 2, &om)) {
        if (p[at] == '-') oh = -oh, om = -om;
    } else return 0;
    const int64_t seconds = fsb_session_days_(y, mo, d) * 86400 + (h - oh) * 3600 + (mi - om) * 60;
    *ns = (seconds + s) * 1000000000 + frac;
    return 1;
}

/* ---- [utf8] ---------------------------------------------------------------------------------- */
/* Bytes of the character at p (size > 0) and its number, 0 if it is not valid UTF-8. */
static size_t fsb_session_utf8_(const unsigned char *p, size_t size, uint32_t *cp)
{
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    const size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || size < n) return 0;
    uint32_t c = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; ++i) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) ||
        (n == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    *cp = c;
    return n;
}

static size_t fsb_session_utf8_put_(char *out, uint32_t c) /* up to 4 bytes; surrogates too */
{
    if (c < 0x80) return out[0] = (char)c, 1;
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; --i, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xf0u) | c);
    return n;
}

static int fsb_session_is_utf8_(const char *text, size_t size)
{
    uint32_t cp;
    for (size_t i = 0, n; i < size; i += n)
        if (!(n = fsb_session_utf8_((const unsigned char *)text + i, size - i, &cp))) return 0;
    return 1;
}

/* ---- [json] ---------------------------------------------------------------------------------- */
/* Writing strings: long runs of plain ASCII are the rule, so they are found 16 bytes at a time. */
typedef unsigned char fsb_session_v16_ __attribute__((vector_size(16)));

static int fsb_session_all_plain_(const char *p, size_t sixteens)
{
    fsb_session_v16_ v, odd;
    uint64_t         half[2];
    memset(&odd, 0, 16);
    for (size_t i = 0; i < sixteens; ++i) {
        memcpy(&v, p + 16 * i, 16);
        odd |= (fsb_session_v16_)((v < 0x20) | (v == '"') | (v == '\\') | (v > 0x7e));
    }
    memcpy(half, &odd, 16);
    return !(half[0] | half[1]);
}

static size_t fsb_session_plain_(const char *p, size_t size)
{
    size_t i = 0;
    while (i + 32 <= size && fsb_session_all_plain_(p + i, 2)) i += 32;
    if (i + 16 <= size && fsb_session_all_plain_(p + i, 1)) i += 16;
    while (i < size && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] < 0x7f) ++i;
    return i;
}

static void fsb_session_put_escape_(fsb_session_buf_ *b, unsigned c)
{
    static const char hex[] = "0123456789abcdef";
    const char        text[6] = {'\\', 'u', hex[c >> 12], hex[c >> 8 & 15], hex[c >> 4 & 15],
                                 hex[c & 15]};
    fsb_session_put_(b, text, 6);
}

/* One byte or character that a JSON string may not hold as it is; returns how many bytes it was. */
static size_t fsb_session_put_odd_(fsb_session_buf_ *b, const unsigned char *p, size_t size)
{
    static const char from[] = "\"\\\n\t\r\b\f", to[] = "\"\\ntrbf";
    uint32_t          cp;
    const char *const short_form = *p ? strchr(from, *p) : NULL;
    if (short_form) {
        const char text[2] = {'\\', to[short_form - from]};
        fsb_session_put_(b, text, 2);
        return 1;
    }
    const size_t n = fsb_session_utf8_(p, size, &cp);
    if (!n) fsb_session_put_escape_(b, 0xdc00u | *p); /* not UTF-8: Python's surrogateescape */
    else if (cp < 0x20) fsb_session_put_escape_(b, cp);
    else fsb_session_put_(b, p, n);
    return n ? n : 1;
}

static void fsb_session_put_json_(fsb_session_buf_ *b, const char *text, size_t size)
{
    fsb_session_put_(b, "\"", 1);
    for (size_t i = 0; i < size;) {
        const size_t plain = fsb_session_plain_(text + i, size - i);
        fsb_session_put_(b, text + i, plain);
        i += plain;
        if (i < size) i += fsb_session_put_odd_(b, (const unsigned char *)text + i, size - i);
        if (b->err) return;
    }
    fsb_session_put_(b, "\"", 1);
}

/* Reading: strict (RFC 8259) but for bytes that are not UTF-8 in strings, which are kept. Each of
   these takes a position and the end, and returns the position behind, or NULL. */
static const char *fsb_session_blank_(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) ++p;
    return p;
}

static int fsb_session_hex_(const char *p, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < 4; ++i) {
        const char c = p[i];
        const int  d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                     : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return 0;
        *out = *out << 4 | (unsigned)d;
    }
    return 1;
}

static const char *fsb_session_skip_string_(const char *p, const char *end)
{
    unsigned hex;
    if (p >= end || *p != '"') return NULL;
    for (++p;;) {
        p += fsb_session_plain_(p, (size_t)(end - p));
        if (p >= end || (unsigned char)*p < 0x20) return NULL;
        if (*p == '"') return p + 1;
        if (*p++ != '\\') continue; /* DEL or beyond ASCII */
        if (p >= end || !*p || !strchr("\"\\/bfnrtu", *p)) return NULL;
        if (*p == 'u' && (end - p < 5 || !fsb_session_hex_(p + 1, &hex))) return NULL;
        p += *p == 'u' ? 5 : 1;
    }
}

static const char *fsb_session_skip_digits_(const char *p, const char *end)
{
    const char *begin = p;
    while (p < end && *p >= '0' && *p <= '9') ++p;
    return p > begin ? p : NULL;
}

static const char *fsb_session_skip_number_(const char *p, const char *end)
{
    if (p < end && *p == '-') ++p;
    const int zero = p < end && *p == '0';
    const char *const begin = p;
    if (!(p = fsb_session_skip_digits_(p, end)) || (zero && p > begin + 1)) return NULL;
    if (p < end && *p == '.' && !(p = fsb_session_skip_digits_(p + 1, end))) return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        ++p;
        if (p < end && (*p == '+' || *p == '-')) ++p;
        p = fsb_session_skip_digits_(p, end);
    }
    return p;
}

static const char *fsb_session_skip_scalar_(const char *p, const char *end)
{
    static const char *const words[3] = {"true", "false", "null"};
    if (p >= end) return NULL;
    if (*p == '"') return fsb_session_skip_string_(p, end);
    for (int i = 0; i < 3; ++i) {
        const size_t n = strlen(words[i]);
        if (*p == words[i][0])
            return (size_t)(end - p) >= n && memcmp(p, words[i], n) == 0 ? p + n : NULL;
    }
    return fsb_session_skip_number_(p, end);
}

/* "key" : -> the position of the value. */
static const char *fsb_session_skip_key_(const char *p, const char *end)
{
    if (!(p = fsb_session_skip_string_(fsb_session_blank_(p, end), end))) return NULL;
    p = fsb_session_blank_(p, end);
    return p < end && *p == ':' ? fsb_session_blank_(p + 1, end) : NULL;
}

/* Skips one value of any kind, nested up to max_depth, without recursion: a bit a level says
   whether it is an object. */
static const char *fsb_session_skip_(const char *p, const char *end, int max_depth)
{
    unsigned char object[FSB_SESSION_JSON_DEPTH_ / 8] = {0};
    int           depth = 0;
    p = fsb_session_blank_(p, end);
    for (;;) {
        if (p < end && (*p == '{' || *p == '[')) {
            if (depth == max_depth) return NULL;
            const unsigned char bit = (unsigned char)(1u << (depth & 7));
            object[depth >> 3] =
                (unsigned char)((object[depth >> 3] & ~bit) | (*p == '{' ? bit : 0));
            ++depth;
            const char close = *p == '{' ? '}' : ']';
            p = fsb_session_blank_(p + 1, end);
            if (p >= end || *p != close) {
                if (close == '}' && !(p = fsb_session_skip_key_(p, end))) return NULL;
                continue; /* a value comes */
            }
        } else if (!(p = fsb_session_skip_scalar_(p, end)) || !depth) return p;
        else p = fsb_session_blank_(p, end);
        for (;;) { /* behind a value, or at the close of an empty container */
            const int in_object = object[(depth - 1) >> 3] >> ((depth - 1) & 7) & 1;
            if (p >= end) return NULL;
            if (*p == ',') {
                p = in_object ? fsb_session_skip_key_(p + 1, end) : fsb_session_blank_(p + 1, end);
                if (!p) return NULL;
                break;
            }
            if (*p != (in_object ? '}' : ']')) return NULL;
            if (--depth == 0) return p + 1;
            p = fsb_session_blank_(p + 1, end);
        }
    }
}

static int fsb_session_is_json_(fsb_session_span text, int max_depth)
{
    const char *end = text.data + text.size;
    const char *p = text.size ? fsb_session_skip_(text.data, end, max_depth) : NULL;
    return p && fsb_session_blank_(p, end) == end;
}

/* Walks the members of an object, or the values of an array (then key stays empty): text must be
   one valid value. */
typedef struct fsb_session_json_ {
    const char      *p, *end;
    char             kind;       /* '{' or '[' */
    fsb_session_span key, value; /* as they stand: strings with their quotes */
} fsb_session_json_;

static int fsb_session_enter_(fsb_session_json_ *j, fsb_session_span text)
{
    memset(j, 0, sizeof *j);
    if (!text.size) return 0;
    j->end = text.data + text.size;
    j->p = fsb_session_blank_(text.data, j->end);
    j->kind = j->p < j->end ? *j->p++ : '\0';
    return j->kind == '{' || j->kind == '[';
}

static int fsb_session_member_(fsb_session_json_ *j) /* 1, or 0: there is none left */
{
    const char *p = fsb_session_blank_(j->p, j->end), *behind;
    if (p < j->end && *p == ',') p = fsb_session_blank_(p + 1, j->end);
    if (p >= j->end || *p == '}' || *p == ']') return 0;
    if (j->kind == '{') {
        behind = fsb_session_skip_string_(p, j->end);
        const char *value = fsb_session_skip_key_(p, j->end);
        if (!behind || !value) return 0;
        j->key.data = p, j->key.size = (size_t)(behind - p);
        p = value;
    }
    if (!(behind = fsb_session_skip_(p, j->end, FSB_SESSION_JSON_DEPTH_))) return 0;
    j->value.data = p, j->value.size = (size_t)(behind - p);
    j->p = behind;
    return 1;
}

static int fsb_session_key_is_(const fsb_session_json_ *j, const char *name)
{
    const size_t n = strlen(name);
    return j->key.size == n + 2 && memcmp(j->key.data + 1, name, n) == 0;
}

/* One escape at p (behind the backslash) into out; moves p behind it. */
static size_t fsb_session_unescape_(const char **p, const char *end, char *out)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    unsigned          c, low;
    const char        kind = *(*p)++;
    if (kind != 'u') {
        const char *found = strchr(from, kind);
        *out = found ? to[found - from] : kind;
        return 1;
    }
    fsb_session_hex_(*p, &c);
    *p += 4;
    if (c >= 0xd800 && c < 0xdc00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u' &&
        fsb_session_hex_(*p + 2, &low) && low >= 0xdc00 && low < 0xe000) {
        *p += 6;
        return fsb_session_utf8_put_(out, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
    }
    if (c >= 0xdc80 && c <= 0xdcff) { /* a byte that was not UTF-8 */
        *out = (char)(unsigned char)(c & 0xff);
        return 1;
    }
    return fsb_session_utf8_put_(out, c); /* other lone surrogates: kept as their three bytes */
}

/* Decodes a valid JSON string into the block; any other value gives an empty one. 0 or -ENOMEM. */
static int fsb_session_string_(fsb_session_block *block, fsb_session_span raw,
                               fsb_session_span *out)
{
    out->data = "", out->size = 0;
    if (raw.size < 2 || raw.data[0] != '"') return 0;
    const char *p = raw.data + 1, *end = raw.data + raw.size - 1;
    char       *text = (char *)fsb_session_block_take_(block, raw.size);
    size_t      n = 0;
    if (!text) return -ENOMEM;
    while (p < end) {
        const char  *slash = (const char *)memchr(p, '\\', (size_t)(end - p));
        const size_t run = (size_t)((slash ? slash : end) - p);
        memcpy(text + n, p, run);
        n += run, p += run;
        if (slash) ++p, n += fsb_session_unescape_(&p, end, text + n);
    }
    text[n] = '\0';
    out->data = text, out->size = n;
    return 0;
}

static uint64_t fsb_session_uint_(fsb_session_span raw) /* 0 if it is not a count */
{
    uint64_t n = 0;
    for (size_t i = 0; i < raw.size; ++i) {
        if (raw.data[i] < '0' || raw.data[i] > '9' || n > UINT64_MAX / 16) return 0;
        n = n * 10 + (uint64_t)(raw.data[i] - '0');
    }
    return n;
}

/* ---- [hash] ---------------------------------------------------------------------------------- */
/* A 64-bit hash of the multiply-and-fold kind: fast, and seeded where its values might be guessed.
   It finds changes and torn records; it is no seal against forgery. */
static uint64_t fsb_session_fold_(uint64_t a, uint64_t b) /* both halves of the product */
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 u128;
    const u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    const uint64_t low = 0xffffffffu, ll = (a & low) * (b & low), lh = (a & low) * (b >> 32);
    const uint64_t hl = (a >> 32) * (b & low), mid = (ll >> 32) + (lh & low) + (hl & low);
    const uint64_t high = (a >> 32) * (b >> 32) + (lh >> 32) + (hl >> 32) + (mid >> 32);
    return (mid << 32 | (ll & low)) ^ high;
#endif
}

/* What is in files is little-endian: a store may move to another machine. */
static uint64_t fsb_session_little_(uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

static uint64_t fsb_session_word_(const unsigned char *p, size_t size) /* up to 8 bytes */
{
    uint64_t word = 0;
    memcpy(&word, p, size);
    return fsb_session_little_(word);
}

static uint64_t fsb_session_hash_(uint64_t seed, const void *data, size_t size)
{
    const unsigned char *p = (const unsigned char *)data;
    uint64_t             h = seed ^ (0x9e3779b97f4a7c15u + size), a = 0, b = 0;
    size_t               left = size;
    for (; left >= 16; left -= 16, p += 16)
        h = fsb_session_fold_(fsb_session_word_(p, 8) ^ 0xa0761d6478bd642fu,
                              fsb_session_word_(p + 8, 8) ^ h);
    if (left >= 8) a = fsb_session_word_(p, 8), p += 8, left -= 8;
    if (left) b = fsb_session_word_(p, left);
    return fsb_session_fold_(fsb_session_fold_(a ^ 0xe7037ed1a0b428dbu, b ^ h),
                             0x8ebc6af09c88c6e3u);
}

/* ---- [sha256] -------------------------------------------------------------------------------- */
static const uint32_t fsb_session_sha_k_[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t fsb_session_ror_(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void fsb_session_sha_block_(uint32_t *h, const unsigned char *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; ++i, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int i = 16; i < 64; ++i) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] +
               (fsb_session_ror_(a, 7) ^ fsb_session_ror_(a, 18) ^ a >> 3) +
               (fsb_session_ror_(b, 17) ^ fsb_session_ror_(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; ++i) {
        const uint32_t e = s[4], a = s[0];
        const uint32_t t1 =
            s[7] + fsb_session_sha_k_[i] + w[i] + ((e & s[5]) ^ (~e & s[6])) +
            (fsb_session_ror_(e, 6) ^ fsb_session_ror_(e, 11) ^ fsb_session_ror_(e, 25));
        const uint32_t t2 =
            ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2])) +
            (fsb_session_ror_(a, 2) ^ fsb_session_ror_(a, 13) ^ fsb_session_ror_(a, 22));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1, s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; ++i) h[i] += s[i];
}

static void fsb_session_sha256_(fsb_session_span bytes, char hex[65])
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const unsigned char *p = (const unsigned char *)bytes.data;
    size_t               left = bytes.size;
    for (; left >= 64; left -= 64, p += 64) fsb_session_sha_block_(h, p);
    unsigned char tail[128] = {0};
    const size_t  size = left < 56 ? 64 : 128;
    if (left) memcpy(tail, p, left);
    tail[left] = 0x80;
    for (size_t i = 0; i < 8; ++i)
        tail[size - 1 - i] = (unsigned char)((uint64_t)bytes.size * 8 >> 8 * i);
    for (size_t i = 0; i < size; i += 64) fsb_session_sha_block_(h, tail + i);
    for (size_t i = 0; i < 64; ++i)
        hex[i] = "0123456789abcdef"[h[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = '\0';
}

/* ---- [words] --------------------------------------------------------------------------------- */
/* What a word is, the same for both stores: letters and digits, in lower case, without accents.
   0 means "no part of a word", 1 "part of one, but says nothing" (an accent of its own). */
static uint32_t fsb_session_latin_(uint32_t c) /* U+00C0 to U+017F */
{
    static const char base[] =
        "aaaaaa?ceeeeiiii?nooooo ouuuuy??aaaaaa?ceeeeiiii?nooooo ouuuuy?y"
        "aaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiii??jjkkk"
        "llllllllllnnnnnnn??oooooo??rrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzs";
    const char b = base[c - 0xc0];
    if (b == ' ') return c == 0xd7 || c == 0xf7 ? 0 : c;
    if (b != '?') return (uint32_t)(unsigned char)b;
    if (c == 0xc6 || c == 0xd0 || c == 0xde) return c + 0x20;
    return c == 0x132 || c == 0x14a || c == 0x152 ? c + 1 : c;
}

static uint32_t fsb_session_greek_cyrillic_(uint32_t c) /* U+0370 to U+045F */
{
    static const uint16_t accented[][2] = {
        {0x386, 0x3b1}, {0x388, 0x3b5}, {0x389, 0x3b7}, {0x38a, 0x3b9}, {0x38c, 0x3bf},
        {0x38e, 0x3c5}, {0x38f, 0x3c9}, {0x3ac, 0x3b1}, {0x3ad, 0x3b5}, {0x3ae, 0x3b7},
        {0x3af, 0x3b9}, {0x3c2, 0x3c3}, {0x3cc, 0x3bf}, {0x3cd, 0x3c5}, {0x3ce, 0x3c9},
        {0x401, 0x435}, {0x451, 0x435}};
    for (size_t i = 0; i < sizeof accented / sizeof accented[0]; ++i)
        if (accented[i][0] == c) return accented[i][1];
    if (c == 0x37e || c == 0x387) return 0;
    if ((c >= 0x391 && c <= 0x3ab) || (c >= 0x410 && c <= 0x42f)) return c + 0x20;
    return c >= 0x400 && c <= 0x40f ? c + 0x50 : c;
}

static uint32_t fsb_session_letter_(uint32_t c)
{
    if (c < 0x80) {
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) return c;
        return c >= 'A' && c <= 'Z' ? c + 0x20 : 0;
    }
    if (c < 0xc0) return c == 0xaa || c == 0xb5 || c == 0xba ? c : 0;
    if (c < 0x180) return fsb_session_latin_(c);
    if (c >= 0x300 && c < 0x370) return 1;
    if (c >= 0x370 && c < 0x460) return fsb_session_greek_cyrillic_(c);
    if (c >= 0x1e00 && c < 0x1f00) return c | 1;
    if ((c >= 0x2000 && c < 0x2070) || (c >= 0x20a0 && c < 0x20d0) || (c >= 0x2190 && c < 0x2c00) ||
        (c >= 0x2e00 && c < 0x2e80) || (c >= 0x3000 && c < 0x3005) || (c >= 0x3008 && c < 0x3021) ||
        c == 0x30fb || (c >= 0xfe00 && c < 0xfe70) || c == 0xfeff || (c >= 0xff00 && c < 0xff10) ||
        c == 0xfffd)
        return 0;
    if (c >= 0xff10 && c <= 0xff5a) return fsb_session_letter_(c - 0xfee0); /* full width */
    return c;
}

/* Scripts that put no space between words: each character counts as one. */
static int fsb_session_alone_(uint32_t c)
{
    return (c >= 0x3005 && c < 0x3100) || (c >= 0x3400 && c < 0xa000) ||
           (c >= 0xf900 && c < 0xfb00) || (c >= 0xff66 && c < 0xffa0) ||
           (c >= 0x1f000 && c < 0x1fb00) || (c >= 0x20000 && c < 0x40000);
}

typedef struct fsb_session_words_ {
    const unsigned char *text;
    size_t               size, at;
    size_t               start, end; /* of the word, in text */
    char                 word[FSB_SESSION_WORD_ + 4];
    size_t               len;
} fsb_session_words_;

static void fsb_session_words_begin_(fsb_session_words_ *w, const char *text, size_t size)
{
    w->text = (const unsigned char *)text, w->at = 0;
    w->size = size < FSB_SESSION_INDEXED_ ? size : (size_t)FSB_SESSION_INDEXED_;
}

static const char fsb_session_ascii_[129] = /* letters and digits in lower case, else ' ' */
    "                                                0123456789      "
    " abcdefghijklmnopqrstuvwxyz      abcdefghijklmnopqrstuvwxyz     ";

static int fsb_session_next_word_(fsb_session_words_ *w)
{
    uint32_t c;
    w->len = 0;
    while (w->at < w->size) {
        const unsigned char byte = w->text[w->at];
        if (byte < 0x80) { /* most text, so it is done at once */
            const char letter = fsb_session_ascii_[byte];
            if (letter == ' ' && w->len) return 1;
            if (letter != ' ') {
                if (!w->len) w->start = w->at;
                if (w->len <= FSB_SESSION_WORD_ - 4) w->word[w->len++] = letter;
                w->end = w->at + 1;
            }
            ++w->at;
            continue;
        }
        size_t n = 1;
        if (!(n = fsb_session_utf8_(w->text + w->at, w->size - w->at, &c))) n = 1, c = 0;
        c = fsb_session_letter_(c);
        const int alone = c > 0xff && fsb_session_alone_(c);
        if (w->len && (!c || alone)) return 1;
        if (c > 1 && w->len <= FSB_SESSION_WORD_ - 4) {
            if (!w->len) w->start = w->at;
            w->len += fsb_session_utf8_put_(w->word + w->len, c);
        }
        w->at += n;
        if (c) w->end = w->at;
        if (alone) return 1;
    }
    return w->len > 0;
}

/* The words of a text as " one two three ": a phrase is found with memmem. Returns how many. */
static uint32_t fsb_session_put_words_(fsb_session_buf_ *b, fsb_session_span text)
{
    fsb_session_words_ w;
    uint32_t           count = 0;
    fsb_session_words_begin_(&w, text.data, text.size);
    fsb_session_reserve_(b, (text.size < w.size ? text.size : w.size) + 8);
    fsb_session_put_(b, " ", 1);
    for (; fsb_session_next_word_(&w); ++count) {
        w.word[w.len] = ' ';
        fsb_session_put_(b, w.word, w.len + 1);
    }
    return count;
}

/* ---- [query] --------------------------------------------------------------------------------- */
typedef enum fsb_session_sign_ {
    FSB_SESSION_TERM_, FSB_SESSION_OR_, FSB_SESSION_AND_, FSB_SESSION_NOT_, /* by precedence */
    FSB_SESSION_LEFT_, FSB_SESSION_RIGHT_
} fsb_session_sign_;

typedef struct fsb_session_term_ {
    size_t at, size; /* of " word word " in the query's text; without the last ' ' if prefix */
    int    prefix, unwanted;
} fsb_session_term_;

typedef struct fsb_session_token_ {
    fsb_session_sign_ sign;
    int               term;
} fsb_session_token_;

typedef struct fsb_session_match_ {
    fsb_session_buf_   text;
    fsb_session_term_  terms[FSB_SESSION_TERMS_];
    fsb_session_token_ infix[FSB_SESSION_TOKENS_], postfix[FSB_SESSION_TOKENS_];
    int                term_count, infix_count, postfix_count;
} fsb_session_match_;

static int fsb_session_push_token_(fsb_session_match_ *m, fsb_session_sign_ sign, int term)
{
    /* Two operands beside each other mean AND; room is kept for that and for a last ')'. */
    if (m->infix_count + 2 > FSB_SESSION_TOKENS_) return -E2BIG;
    const fsb_session_sign_ last = m->infix_count ? m->infix[m->infix_count - 1].sign
                                                  : FSB_SESSION_LEFT_;
    const int behind_operand = last == FSB_SESSION_TERM_ || last == FSB_SESSION_RIGHT_;
    const int begins_operand = sign == FSB_SESSION_TERM_ || sign == FSB_SESSION_LEFT_;
    if (behind_operand && begins_operand) m->infix[m->infix_count++].sign = FSB_SESSION_AND_;
    else if (sign == FSB_SESSION_NOT_ && last == FSB_SESSION_AND_) --m->infix_count; /* AND NOT */
    else if (behind_operand == begins_operand) return -EINVAL; /* operator without an operand */
    m->infix[m->infix_count].sign = sign, m->infix[m->infix_count].term = term;
    ++m->infix_count;
    return 0;
}

/* A word or phrase at p of n bytes. One without any letter is left out, and so is a NOT before it:
   in "ferry -- oslo" oslo is wanted. */
static int fsb_session_push_term_(fsb_session_match_ *m, const char *p, size_t n, int prefix,
                                  int unwanted)
{
    fsb_session_span   span = {p, n};
    const size_t       at = m->text.size;
    if (!fsb_session_put_words_(&m->text, span)) {
        m->text.size = at;
        if (m->infix_count && m->infix[m->infix_count - 1].sign == FSB_SESSION_NOT_)
            --m->infix_count;
        return m->text.err;
    }
    if (m->term_count == FSB_SESSION_TERMS_) return -E2BIG;
    fsb_session_term_ *t = &m->terms[m->term_count];
    t->at = at, t->size = m->text.size - at, t->prefix = prefix, t->unwanted = unwanted;
    if (prefix) t->size = --m->text.size - at;
    return m->text.err ? m->text.err
                       : fsb_session_push_token_(m, FSB_SESSION_TERM_, m->term_count++);
}

/* Reads the operand or operator at *p and moves behind it. `unwanted` has a bit for each open
   parenthesis, 1 inside a NOT ( ). */
typedef struct fsb_session_scan_ {
    const char *p;
    uint64_t    unwanted;
    int         depth, negate;
} fsb_session_scan_;

static int fsb_session_scan_operand_(fsb_session_match_ *m, fsb_session_scan_ *s)
{
    const char *begin = s->p, *end;
    const int   unwanted = s->negate || (s->unwanted & 1), quoted = *begin == '"';
    s->negate = 0;
    if (quoted) {
        begin = s->p + 1;
        if (!(end = strchr(begin, '"'))) return -EINVAL; /* a phrase without an end */
        s->p = end + 1;
    } else {
        while (*s->p && !strchr(" \t\r\n()\"", *s->p)) ++s->p;
        end = s->p;
    }
    const int prefix = quoted ? *s->p == '*' : end > begin && end[-1] == '*';
    if (quoted && prefix) ++s->p;
    return fsb_session_push_term_(m, begin, (size_t)(end - begin), prefix, unwanted);
}

static int fsb_session_is_operator_(const char *p, const char *word)
{
    const size_t n = strlen(word);
    return strncmp(p, word, n) == 0 && (!p[n] || strchr(" \t\r\n()\"", p[n]));
}

static int fsb_session_scan_next_(fsb_session_match_ *m, fsb_session_scan_ *s)
{
    if (*s->p == '(') {
        if (s->depth == 60) return -E2BIG;
        s->unwanted = s->unwanted << 1 | (unsigned)(s->negate || (s->unwanted & 1));
        s->negate = 0, ++s->depth, ++s->p;
        return fsb_session_push_token_(m, FSB_SESSION_LEFT_, 0);
    }
    if (*s->p == ')') {
        if (s->depth-- == 0) return -EINVAL;
        s->unwanted >>= 1, ++s->p;
        const fsb_session_sign_ last = m->infix[m->infix_count - 1].sign;
        if (last != FSB_SESSION_TERM_ && last != FSB_SESSION_RIGHT_) return -EINVAL;
        m->infix[m->infix_count++].sign = FSB_SESSION_RIGHT_;
        return m->infix_count < FSB_SESSION_TOKENS_ ? 0 : -E2BIG;
    }
    if (fsb_session_is_operator_(s->p, "AND"))
        return s->p += 3, fsb_session_push_token_(m, FSB_SESSION_AND_, 0);
    if (fsb_session_is_operator_(s->p, "OR"))
        return s->p += 2, fsb_session_push_token_(m, FSB_SESSION_OR_, 0);
    if (fsb_session_is_operator_(s->p, "NOT") || (*s->p == '-' && s->p[1] && s->p[1] != ' ')) {
        s->p += *s->p == '-' ? 1 : 3, s->negate = 1;
        return fsb_session_push_token_(m, FSB_SESSION_NOT_, 0);
    }
    return fsb_session_scan_operand_(m, s);
}

static void fsb_session_to_postfix_(fsb_session_match_ *m) /* Dijkstra's shunting yard */
{
    fsb_session_token_ stack[FSB_SESSION_TOKENS_];
    int                depth = 0;
    for (int i = 0; i < m->infix_count; ++i) {
        const fsb_session_token_ t = m->infix[i];
        if (t.sign == FSB_SESSION_TERM_) m->postfix[m->postfix_count++] = t;
        else if (t.sign == FSB_SESSION_LEFT_) stack[depth++] = t;
        else {
            while (depth && stack[depth - 1].sign != FSB_SESSION_LEFT_ &&
                   (t.sign == FSB_SESSION_RIGHT_ || stack[depth - 1].sign >= t.sign))
                m->postfix[m->postfix_count++] = stack[--depth];
            if (t.sign == FSB_SESSION_RIGHT_) --depth;
            else stack[depth++] = t;
        }
    }
    while (depth) m->postfix[m->postfix_count++] = stack[--depth];
}

static int fsb_session_parse_query_(fsb_session_match_ *m, const fsb_allocator *mem,
                                    const char *words)
{
    fsb_session_scan_ s = {words, 0, 0, 0};
    memset(m, 0, sizeof *m);
    m->text = fsb_session_buffer_(mem);
    while (*(s.p += strspn(s.p, " \t\r\n"))) {
        const int err = fsb_session_scan_next_(m, &s);
        if (err < 0) return err;
    }
    if (!m->infix_count || s.depth) return -EINVAL;
    const fsb_session_sign_ last = m->infix[m->infix_count - 1].sign;
    if (last != FSB_SESSION_TERM_ && last != FSB_SESSION_RIGHT_) return -EINVAL;
    fsb_session_to_postfix_(m);
    return 0;
}

static uint16_t fsb_session_count_(const char *text, size_t size, const char *needle, size_t n)
{
    uint32_t    count = 0;
    const char *end = text + size;
    while ((size_t)(end - text) >= n &&
           (text = (const char *)memmem(text, (size_t)(end - text), needle, n)) != NULL) {
        ++count;
        ++text; /* words share the blank between them */
    }
    return (uint16_t)(count < UINT16_MAX ? count : UINT16_MAX);
}

/* Does " one two three " match? Fills in how often each term is there. */
static int fsb_session_matches_(const fsb_session_match_ *m, const char *text, size_t size,
                                uint16_t *counts)
{
    unsigned char stack[FSB_SESSION_TOKENS_];
    int           depth = 0;
    for (int i = 0; i < m->postfix_count; ++i) {
        const fsb_session_token_ t = m->postfix[i];
        if (t.sign == FSB_SESSION_TERM_) {
            const fsb_session_term_ *term = &m->terms[t.term];
            counts[t.term] = fsb_session_count_(text, size, m->text.data + term->at, term->size);
            stack[depth++] = counts[t.term] != 0;
        } else {
            const unsigned char b = stack[--depth], a = stack[depth - 1];
            stack[depth - 1] = t.sign == FSB_SESSION_OR_ ? a | b
                             : t.sign == FSB_SESSION_AND_ ? a & b : (unsigned char)(a & !b);
        }
    }
    return stack[0];
}

/* ---- [rank] ---------------------------------------------------------------------------------- */
/* A match on its way to be a hit. Both stores collect these, newest first in the end. */
typedef struct fsb_session_found_ {
    int64_t  time_ns;
    uint64_t message_id;
    uint64_t where, offset; /* the store's own way back to the message */
    fsb_session_span text;  /* it, and its role, where the search kept them: role is not NULL */
    const char      *role;
    uint32_t words;
    double   score;
    uint16_t counts[FSB_SESSION_TERMS_];
} fsb_session_found_;

/* The newest `cap` matches, kept as a heap with the oldest on top. */
typedef struct fsb_session_finds_ {
    const fsb_allocator *mem;
    fsb_session_found_  *at;
    size_t               count, cap, room;
} fsb_session_finds_;

static int fsb_session_older_(const fsb_session_found_ *a, const fsb_session_found_ *b)
{
    if (a->time_ns != b->time_ns) return a->time_ns < b->time_ns;
    if (a->where != b->where) return a->where < b->where;
    return a->message_id < b->message_id;
}

static void fsb_session_sift_(fsb_session_finds_ *f, size_t i)
{
    for (size_t child; (child = 2 * i + 1) < f->count; i = child) {
        if (child + 1 < f->count && fsb_session_older_(&f->at[child + 1], &f->at[child])) ++child;
        if (!fsb_session_older_(&f->at[child], &f->at[i])) return;
        const fsb_session_found_ t = f->at[i];
        f->at[i] = f->at[child], f->at[child] = t;
    }
}

static int fsb_session_keep_(fsb_session_finds_ *f, const fsb_session_found_ *found)
{
    if (f->count == f->cap) {
        if (!fsb_session_older_(&f->at[0], found)) return 0;
        f->at[0] = *found;
        fsb_session_sift_(f, 0);
        return 0;
    }
    if (f->count == f->room) {
        const size_t room = f->room ? f->room * 2 : 32, each = sizeof *f->at;
        void        *at = f->mem->fn(f->mem->user, f->at, f->room * each, room * each);
        if (!at) return -ENOMEM;
        f->at = (fsb_session_found_ *)at, f->room = room;
    }
    size_t i = f->count++;
    for (; i && fsb_session_older_(found, &f->at[(i - 1) / 2]); i = (i - 1) / 2)
        f->at[i] = f->at[(i - 1) / 2];
    f->at[i] = *found;
    return 0;
}

static double fsb_session_log2_(double x) /* good to a tenth; x >= 1; spares the user -lm */
{
    double whole = 0;
    while (x >= 2) x /= 2, ++whole;
    return whole + (x - 1);
}

/* BM25 among the matches at hand: how rare a term is, is judged by them. */
static void fsb_session_score_(const fsb_session_match_ *m, fsb_session_finds_ *f)
{
    double words = 1, weight[FSB_SESSION_TERMS_];
    for (size_t i = 0; i < f->count; ++i) words += f->at[i].words;
    for (int t = 0; t < m->term_count; ++t) {
        size_t with = 0;
        for (size_t i = 0; i < f->count; ++i) with += f->at[i].counts[t] != 0;
        weight[t] = m->terms[t].unwanted ? 0
                                         : fsb_session_log2_(2 + ((double)f->count - (double)with) /
                                                                     ((double)with + 1));
    }
    for (size_t i = 0; i < f->count; ++i) {
        const double length = f->at[i].words * (double)f->count / words;
        f->at[i].score = 0;
        for (int t = 0; t < m->term_count; ++t) {
            const double n = f->at[i].counts[t];
            f->at[i].score += weight[t] * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * length));
        }
    }
}

static int fsb_session_by_time_(const void *a, const void *b)
{
    const fsb_session_found_ *x = (const fsb_session_found_ *)a, *y = (const fsb_session_found_ *)b;
    return fsb_session_older_(x, y) - fsb_session_older_(y, x);
}

static int fsb_session_by_score_(const void *a, const void *b)
{
    const fsb_session_found_ *x = (const fsb_session_found_ *)a, *y = (const fsb_session_found_ *)b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return fsb_session_by_time_(a, b);
}

static void fsb_session_order_(const fsb_session_match_ *m, fsb_session_finds_ *f, int order)
{
    size_t kept = 0;
    if (!f->count) return;
    qsort(f->at, f->count, sizeof *f->at, fsb_session_by_time_);
    for (size_t i = 0; i < f->count; ++i) /* an index may tell of a message twice after a crash */
        if (!kept || fsb_session_by_time_(&f->at[kept - 1], &f->at[i])) f->at[kept++] = f->at[i];
    f->count = kept;
    if (order != FSB_SESSION_BEST) return;
    fsb_session_score_(m, f);
    qsort(f->at, f->count, sizeof *f->at, fsb_session_by_score_);
}

/* ---- [snippet] ------------------------------------------------------------------------------- */
typedef struct fsb_session_place_ {
    size_t start, end, at; /* in the text; and where the word stands among the normalised ones */
    int    opens, closes;  /* hits that begin and end with this word */
} fsb_session_place_;

static size_t fsb_session_places_(fsb_session_buf_ *places, fsb_session_buf_ *normal,
                                  fsb_session_span text)
{
    fsb_session_words_ w;
    size_t             count = 0;
    fsb_session_words_begin_(&w, text.data, text.size);
    fsb_session_reserve_(normal, w.size + 8);
    fsb_session_reserve_(places, (w.size / 5 + 8) * sizeof(fsb_session_place_));
    fsb_session_put_(normal, " ", 1);
    for (; fsb_session_next_word_(&w); ++count) {
        const fsb_session_place_ place = {w.start, w.end, normal->size - 1, 0, 0};
        if (fsb_session_reserve_(places, sizeof place)) return 0;
        memcpy(places->data + places->size, &place, sizeof place);
        places->size += sizeof place;
        w.word[w.len] = ' ';
        fsb_session_put_(normal, w.word, w.len + 1);
    }
    return places->err || normal->err ? 0 : count;
}

/* Marks where each term is found; returns the first word of the first hit. */
static size_t fsb_session_mark_(const fsb_session_match_ *m, fsb_session_place_ *place,
                                size_t count, const fsb_session_buf_ *normal)
{
    size_t first = count;
    for (int i = 0; i < m->term_count; ++i) {
        const fsb_session_term_ *t = &m->terms[i];
        size_t                   at = 0, word = 0;
        while (!t->unwanted && normal->size - at >= t->size) {
            const char *hit = (const char *)memmem(normal->data + at, normal->size - at,
                                                   m->text.data + t->at, t->size);
            if (!hit) break;
            at = (size_t)(hit - normal->data);
            const size_t end = at + t->size - (t->prefix ? 0 : 1);
            while (place[word].at < at) ++word;
            size_t last = word;
            while (last + 1 < count && place[last + 1].at < end) ++last;
            ++place[word].opens, ++place[last].closes;
            if (word < first) first = word;
            ++at;
        }
    }
    return first < count ? first : 0;
}

static void fsb_session_put_line_(fsb_session_buf_ *b, const char *text, size_t size)
{
    const size_t at = b->size;
    fsb_session_put_(b, text, size);
    for (size_t i = at; i < b->size; ++i)
        if ((unsigned char)b->data[i] < 0x20 || b->data[i] == 0x7f) b->data[i] = ' ';
}

static int fsb_session_snippet_(fsb_session_buf_ *out, const fsb_session_match_ *m,
                                const fsb_session_query *q, fsb_session_span text)
{
    fsb_session_buf_ places = fsb_session_buffer_(out->mem), normal = fsb_session_buffer_(out->mem);
    const size_t     count = fsb_session_places_(&places, &normal, text);
    if (count) {
        fsb_session_place_ *place = (fsb_session_place_ *)(void *)places.data;
        const size_t        hit = fsb_session_mark_(m, place, count, &normal);
        const size_t        before = q->snippet_words / 4;
        size_t first = hit > before ? hit - before : 0, last = first + q->snippet_words;
        if (last > count)
            last = count, first = last > q->snippet_words ? last - q->snippet_words : 0;
        int open = 0;
        if (first) fsb_session_puts_(out, "\xe2\x80\xa6 ");
        else fsb_session_put_line_(out, text.data, place[0].start < 8 ? place[0].start : 0);
        for (size_t i = first; i < last; ++i) {
            if (i > first)
                fsb_session_put_line_(out, text.data + place[i - 1].end,
                                      place[i].start - place[i - 1].end);
            if (place[i].opens && !open) fsb_session_puts_(out, q->mark);
            open += place[i].opens;
            fsb_session_put_line_(out, text.data + place[i].start, place[i].end - place[i].start);
            if (place[i].closes && open > 0 && (open -= place[i].closes) <= 0)
                open = 0, fsb_session_puts_(out, q->unmark);
        }
        if (open > 0) fsb_session_puts_(out, q->unmark);
        const size_t end = place[last - 1].end;
        if (last < count) fsb_session_puts_(out, " \xe2\x80\xa6");
        else fsb_session_put_line_(out, text.data + end, text.size - end < 8 ? text.size - end : 0);
    }
    const int err = out->err ? out->err : places.err ? places.err : normal.err;
    fsb_session_unbuffer_(&places), fsb_session_unbuffer_(&normal);
    return err;
}

/* ---- [object] -------------------------------------------------------------------------------- */
/* What a save remembers of each message, to find where the next one differs. */
typedef struct fsb_session_note_ {
    uint64_t id, hash; /* hash: rolling, over this message and all before it */
    int64_t  time_ns;
} fsb_session_note_;

typedef struct fsb_session_branch_ {
    uint64_t inherits; /* messages up to this id are shared with the parent, and found there */
    uint64_t rewrites; /* files: tells a rewritten file from one that only grew */
    int      forked;   /* others may share messages of this one */
} fsb_session_branch_;

struct fsb_session {
    fsb_session_store *store;
    fsb_session       *next;  /* among the hot sessions */
    fsb_session_info   info;  /* its strings are in `names` */
    fsb_session_block *names;
    fsb_session_branch_ branch;
    fsb_session_buf_   notes;    /* of fsb_session_note_; only if has_notes */
    int                has_notes;
    int                doubt;    /* a change failed half-way, or in a batch: look again first */
    int                behind;   /* somebody else changed it since the notes were taken */
    fsb_session_buf_   line;     /* kept, so that an append allocates nothing */
    int                fd;       /* files: kept open for appending; -1: not yet */
    uint64_t          *pulse;    /* files: this session's counter, or NULL */
    uint64_t           beat;     /* files: the pulse after our last write */
    int                torn;     /* files: the last write was cut short, so begin a new line */
    uint64_t           size, ino;
    int64_t            mtime_ns, checked_ns; /* files: when the path was last compared */
    uint64_t           bad_lines, first_bad_line;
    int64_t            number, revision; /* SQLite */
};

/* One store behind the other. Each call answers 0 or a negative errno; sessions passed in are
   looked up already, messages are checked and have no attachment data left. */
typedef struct fsb_session_kind_ {
    void (*close)(fsb_session_store *store);
    int (*sync)(fsb_session_store *store);
    int (*users)(fsb_session_store *store, fsb_session_buf_ *names); /* each with its '\0' */
    int (*list)(fsb_session_store *store, const char *user, const fsb_session_filter *filter,
                fsb_session_block *block, fsb_session_buf_ *infos);
    int (*search)(fsb_session_store *store, const char *user, const fsb_session_query *query,
                  const fsb_session_match_ *match, fsb_session_block *block, fsb_session_hits *out);
    int (*repair)(fsb_session_store *store, const char *user, fsb_session_repair_result *out);
    int (*put_blob)(fsb_session_store *store, const char *user, const char *hash,
                    fsb_session_span data);
    int (*get_blob)(fsb_session_store *store, const char *user, const char *hash,
                    fsb_session_block *block, fsb_session_span *out);
    int (*drop_blobs)(fsb_session_store *store, const char *user, const fsb_session_buf_ *keep,
                      int64_t now_ns, uint64_t *dropped); /* keep: hashes in use, 64 bytes each,
                      sorted; attachments of the last hour stay: their messages may be on the way */
    int (*begin)(fsb_session_store *store, void **batch);
    int (*end)(fsb_session_store *store, void *batch, int commit);
    int (*open)(fsb_session *s); /* by info.user and info.id; again, to catch up */
    int (*ready)(fsb_session *s); /* before a change: catches up if there is doubt */
    void (*release)(fsb_session *s);
    /* With branch.inherits and no messages, those of the parent are meant. */
    int (*create)(fsb_session *s, const fsb_session_message *messages, size_t count);
    int (*replace)(fsb_session *s, const fsb_session_message *messages, size_t count);
    /* The messages behind keep_id become these; the first `kept` of them are what is stored up to
       keep_id, if the caller has that at hand. */
    int (*write)(fsb_session *s, uint64_t keep_id, const fsb_session_message *messages,
                 size_t count, size_t kept, void *batch);
    int (*edit)(fsb_session *s, const fsb_session_message *message);
    int (*erase)(fsb_session *s, uint64_t first, uint64_t last);
    int (*describe)(fsb_session *s); /* stores info */
    int (*load)(fsb_session *s, const fsb_session_range *range, fsb_session_block *block,
                fsb_session_messages *out);
    int (*remove)(fsb_session *s);
    int (*compress)(fsb_session *s);
} fsb_session_kind_;

struct fsb_session_store {
    fsb_session_store_desc   desc; /* defaults filled in; strings copied into `names` */
    const fsb_session_kind_ *kind;
    fsb_session_block       *names;
    uint64_t                 seed; /* of the rolling hashes */
    pthread_mutex_t          lock; /* leaf; guards what follows */
    fsb_session             *hot;  /* closed sessions, latest first */
    int32_t                  hot_count;
    char                     error[400];
    struct fsb_session_shelf_ *shelves; /* files: users whose index is known */
    struct fsb_session_sql_   *idle;    /* SQLite: connections that nobody uses now */
    uint64_t                   unindexed; /* SQLite: messages appended since the last batch */
    int                        fd;      /* files: the folder */
    uint64_t *pulse; /* files: shared with other processes, FSB_SESSION_PULSES_ of them; or NULL */
};

/* Notes what failed, for fsb_session_store_errmsg(), and returns err. */
static int fsb_session_fail_(fsb_session_store *store, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int fsb_session_fail_(fsb_session_store *store, int err, const char *format, ...)
{
    char    text[sizeof store->error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&store->lock);
    memcpy(store->error, text, sizeof text);
    pthread_mutex_unlock(&store->lock);
    return err;
}

static void fsb_session_log_(const fsb_session_store *store, fsb_log_level level, const char *item,
                             const char *format, ...) __attribute__((format(printf, 4, 5)));
static void fsb_session_log_(const fsb_session_store *store, fsb_log_level level, const char *item,
                             const char *format, ...)
{
    char    text[400];
    va_list args;
    if (!store->desc.log.fn) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    store->desc.log.fn(store->desc.log.user, level, item, text);
}

/* Copies what the strings of an info point to into the block. 0 or -ENOMEM. */
static int fsb_session_copy_info_(fsb_session_block *block, fsb_session_info *to,
                                  const fsb_session_info *from)
{
    const fsb_session_info src = *from; /* they may be the same */
    const char  *text[4] = {src.user, src.id, src.title, src.parent};
    fsb_session_span json[2] = {src.config, src.metadata};
    char        *copy[4];
    const char **tags = (const char **)fsb_session_block_take_(block, (src.tag_count + 1) *
                                                                          sizeof *tags);
    if (!tags) return -ENOMEM;
    for (size_t i = 0; i < 4; ++i)
        if (!(copy[i] = fsb_session_block_copy_(block, text[i], text[i] ? strlen(text[i]) : 0)))
            return -ENOMEM;
    for (size_t i = 0; i < 2; ++i)
        if (!(json[i].data = fsb_session_block_copy_(block, json[i].data, json[i].size)))
            return -ENOMEM;
    for (size_t i = 0; i < src.tag_count; ++i)
        if (!(tags[i] = fsb_session_block_copy_(block, src.tags[i], strlen(src.tags[i]))))
            return -ENOMEM;
    *to = src;
    to->user = copy[0], to->id = copy[1], to->title = copy[2], to->parent = copy[3];
    to->config = json[0], to->metadata = json[1], to->tags = tags;
    return 0;
}

/* Gives the session an info whose strings are its own; on failure it keeps the old one. */
static int fsb_session_adopt_(fsb_session *s, const fsb_session_info *info)
{
    fsb_session_block *names = fsb_session_block_new_(&s->store->desc.allocator);
    fsb_session_info   copy;
    if (!names || fsb_session_copy_info_(names, &copy, info)) {
        fsb_session_block_free_(names);
        return -ENOMEM;
    }
    fsb_session_block_free_(s->names);
    s->names = names, s->info = copy;
    return 0;
}

static int fsb_session_new_(fsb_session **out, fsb_session_store *store, const char *user,
                            const char *id)
{
    const fsb_allocator *mem = &store->desc.allocator;
    fsb_session         *s = (fsb_session *)fsb_session_take_(mem, sizeof *s);
    if (!s) return -ENOMEM;
    s->store = store, s->fd = -1;
    s->line = fsb_session_buffer_(mem), s->notes = fsb_session_buffer_(mem);
    fsb_session_info info;
    memset(&info, 0, sizeof info);
    info.user = user, info.id = id;
    if (fsb_session_adopt_(s, &info)) {
        fsb_session_drop_(mem, s, sizeof *s);
        return -ENOMEM;
    }
    if (store->pulse)
        s->pulse = store->pulse + (fsb_session_hash_(fsb_session_hash_(0, user, strlen(user)), id,
                                                     strlen(id)) & (FSB_SESSION_PULSES_ - 1));
    *out = s;
    return 0;
}

static void fsb_session_discard_(fsb_session *s)
{
    const fsb_allocator *mem = &s->store->desc.allocator;
    s->store->kind->release(s);
    fsb_session_unbuffer_(&s->line), fsb_session_unbuffer_(&s->notes);
    fsb_session_block_free_(s->names);
    fsb_session_drop_(mem, s, sizeof *s);
}

/* What a message takes, as the quota counts it: the same in both stores. */
static uint64_t fsb_session_weight_(const fsb_session_message *m)
{
    uint64_t n = 64 + strlen(m->role) + m->content.size + m->metadata.size;
    for (size_t i = 0; i < m->attachment_count; ++i) n += 64 + m->attachments[i].size;
    return n;
}

static void fsb_session_count_in_(fsb_session_info *info, const fsb_session_message *m)
{
    info->last_id = m->id;
    ++info->message_count;
    info->bytes += fsb_session_weight_(m);
    if (m->time_ns > info->updated_ns) info->updated_ns = m->time_ns;
}

/* Are the notes still of what the session is now? Ids and counts tell enough. */
static int fsb_session_notes_agree_(const fsb_session *s)
{
    const fsb_session_note_ *note = (const fsb_session_note_ *)(const void *)s->notes.data;
    const size_t             count = s->notes.size / sizeof *note;
    return count == s->info.message_count && (!count || note[count - 1].id == s->info.last_id);
}

/* What message 0, which stands for the title and tags, is searched as. */
static void fsb_session_put_title_(fsb_session_buf_ *b, const fsb_session_info *info)
{
    fsb_session_puts_(b, info->title);
    for (size_t i = 0; i < info->tag_count; ++i) {
        fsb_session_puts_(b, i ? ", " : "\n");
        fsb_session_puts_(b, info->tags[i]);
    }
}

/* ---- [lines] --------------------------------------------------------------------------------- */
/* A session and its messages as JSON Lines. This is the format of the files, of exports, and of
   what SQLite keeps of cold sessions. */
static void fsb_session_put_field_(fsb_session_buf_ *b, const char *key, const char *text,
                                   size_t size)
{
    fsb_session_puts_(b, key);
    fsb_session_put_json_(b, text, size);
}

static void fsb_session_put_time_(fsb_session_buf_ *b, const char *key, int64_t ns)
{
    fsb_session_puts_(b, key);
    if (fsb_session_reserve_(b, FSB_SESSION_TIME_ + 2)) return;
    b->data[b->size] = '"';
    fsb_session_time_text_(ns, b->data + b->size + 1);
    b->data[b->size + 1 + FSB_SESSION_TIME_] = '"';
    b->size += FSB_SESSION_TIME_ + 2;
}

/* JSON stands in the line as it is; if it has line breaks, as a string under another key. */
static void fsb_session_put_verbatim_(fsb_session_buf_ *b, const char *key, fsb_session_span json)
{
    if (!json.size) return;
    const int broken = memchr(json.data, '\n', json.size) || memchr(json.data, '\r', json.size);
    fsb_session_puts_(b, ",\"");
    fsb_session_puts_(b, key);
    fsb_session_puts_(b, broken ? "_text\":" : "\":");
    if (broken) fsb_session_put_json_(b, json.data, json.size);
    else fsb_session_put_(b, json.data, json.size);
}

static void fsb_session_put_attachments_(fsb_session_buf_ *b, const fsb_session_message *m)
{
    for (size_t i = 0; i < m->attachment_count; ++i) {
        const fsb_session_attachment *a = &m->attachments[i];
        const char *const keys[4] = {"\"name\":", "\"type\":", "\"uri\":", "\"hash\":"};
        const char *const texts[4] = {a->name, a->type, a->uri, a->hash};
        fsb_session_puts_(b, i ? ",{" : "[{");
        for (int k = 0; k < 4; ++k) {
            if (!texts[k] || !texts[k][0]) continue;
            fsb_session_put_field_(b, keys[k], texts[k], strlen(texts[k]));
            fsb_session_put_(b, ",", 1);
        }
        fsb_session_puts_(b, "\"size\":");
        fsb_session_put_uint_(b, a->size);
        fsb_session_put_(b, "}", 1);
    }
    if (m->attachment_count) fsb_session_put_(b, "]", 1);
}

static void fsb_session_put_message_(fsb_session_buf_ *b, const fsb_session_message *m)
{
    fsb_session_puts_(b, "{\"id\":");
    fsb_session_put_uint_(b, m->id);
    fsb_session_put_time_(b, ",\"time\":", m->time_ns);
    fsb_session_put_field_(b, ",\"role\":", m->role, strlen(m->role));
    fsb_session_put_field_(b, ",\"content\":", m->content.data, m->content.size);
    fsb_session_put_verbatim_(b, "metadata", m->metadata);
    if (m->attachment_count) {
        fsb_session_puts_(b, ",\"attachments\":");
        fsb_session_put_attachments_(b, m);
    }
    fsb_session_put_(b, "}", 1);
}

/* The session's members, without the braces. */
static void fsb_session_put_info_(fsb_session_buf_ *b, const fsb_session_info *info,
                                  const fsb_session_branch_ *branch)
{
    fsb_session_puts_(b, "\"fsb\":1");
    if (branch->rewrites) {
        fsb_session_puts_(b, ",\"rewrites\":");
        fsb_session_put_uint_(b, branch->rewrites);
    }
    fsb_session_put_field_(b, ",\"session\":", info->id, strlen(info->id));
    fsb_session_put_field_(b, ",\"user\":", info->user, strlen(info->user));
    fsb_session_put_field_(b, ",\"title\":", info->title, strlen(info->title));
    fsb_session_put_time_(b, ",\"created\":", info->created_ns);
    fsb_session_put_time_(b, ",\"updated\":", info->updated_ns);
    for (size_t i = 0; i < info->tag_count; ++i)
        fsb_session_put_field_(b, i ? "," : ",\"tags\":[", info->tags[i], strlen(info->tags[i]));
    if (info->tag_count) fsb_session_put_(b, "]", 1);
    fsb_session_put_verbatim_(b, "config", info->config);
    fsb_session_put_verbatim_(b, "metadata", info->metadata);
    if (info->parent[0]) {
        fsb_session_put_field_(b, ",\"parent\":", info->parent, strlen(info->parent));
        fsb_session_puts_(b, ",\"fork\":");
        fsb_session_put_uint_(b, info->fork_id);
    }
    if (branch->inherits) {
        fsb_session_puts_(b, ",\"inherits\":");
        fsb_session_put_uint_(b, branch->inherits);
    }
    if (branch->forked) fsb_session_puts_(b, ",\"forked\":1");
}

static void fsb_session_put_head_(fsb_session_buf_ *b, const fsb_session *s)
{
    fsb_session_put_(b, "{", 1);
    fsb_session_put_info_(b, &s->info, &s->branch);
    fsb_session_puts_(b, "}\n");
}

static int fsb_session_read_verbatim_(fsb_session_block *block, const fsb_session_json_ *j,
                                      const char *key, const char *key_text, fsb_session_span *out)
{
    if (fsb_session_key_is_(j, key_text)) return fsb_session_string_(block, j->value, out);
    if (!fsb_session_key_is_(j, key)) return 0;
    out->data = fsb_session_block_copy_(block, j->value.data, j->value.size);
    out->size = j->value.size;
    return out->data ? 0 : -ENOMEM;
}

static int fsb_session_read_text_(fsb_session_block *block, fsb_session_span raw, const char **out)
{
    fsb_session_span text;
    const int        err = fsb_session_string_(block, raw, &text);
    if (err) return err;
    *out = text.data;
    return memchr(text.data, '\0', text.size) ? -EBADMSG : 0;
}

static int fsb_session_read_time_(fsb_session_span raw, int64_t *ns)
{
    return raw.size > 2 && fsb_session_time_parse_(raw.data + 1, raw.size - 2, ns) ? 0 : -EBADMSG;
}

static int fsb_session_read_attachment_(fsb_session_block *block, fsb_session_span value,
                                        fsb_session_attachment *a)
{
    fsb_session_json_ j;
    memset(a, 0, sizeof *a);
    a->name = a->type = a->uri = a->hash = "";
    if (!fsb_session_enter_(&j, value) || j.kind != '{') return -EBADMSG;
    while (fsb_session_member_(&j)) {
        const char **text = fsb_session_key_is_(&j, "name") ? &a->name
                          : fsb_session_key_is_(&j, "type") ? &a->type
                          : fsb_session_key_is_(&j, "uri") ? &a->uri
                          : fsb_session_key_is_(&j, "hash") ? &a->hash : NULL;
        const int err = text ? fsb_session_read_text_(block, j.value, text) : 0;
        if (err) return err;
        if (fsb_session_key_is_(&j, "size")) a->size = fsb_session_uint_(j.value);
    }
    return 0;
}

static int fsb_session_read_attachments_(fsb_session_block *block, fsb_session_span value,
                                         fsb_session_message *m)
{
    fsb_session_json_ j;
    size_t            count = 0;
    if (!fsb_session_enter_(&j, value) || j.kind != '[') return -EBADMSG;
    while (fsb_session_member_(&j)) ++count;
    fsb_session_attachment *a =
        (fsb_session_attachment *)fsb_session_block_take_(block, count * sizeof *a + 1);
    if (!a) return -ENOMEM;
    fsb_session_enter_(&j, value);
    for (size_t i = 0; i < count && fsb_session_member_(&j); ++i) {
        const int err = fsb_session_read_attachment_(block, j.value, &a[i]);
        if (err) return err;
    }
    m->attachments = a, m->attachment_count = count;
    return 0;
}

/* Members of a message line. Times and ids may be missing: people leave them out. */
static int fsb_session_read_message_(fsb_session_block *block, fsb_session_span line,
                                     fsb_session_message *m)
{
    fsb_session_json_ j;
    fsb_session_span  none = {"", 0};
    int               err = 0;
    memset(m, 0, sizeof *m);
    m->content = m->metadata = none;
    if (!fsb_session_enter_(&j, line)) return -EBADMSG;
    while (!err && fsb_session_member_(&j)) {
        if (fsb_session_key_is_(&j, "id")) m->id = fsb_session_uint_(j.value);
        else if (fsb_session_key_is_(&j, "time"))
            err = fsb_session_read_time_(j.value, &m->time_ns);
        else if (fsb_session_key_is_(&j, "role"))
            err = fsb_session_read_text_(block, j.value, &m->role);
        else if (fsb_session_key_is_(&j, "content"))
            err = fsb_session_string_(block, j.value, &m->content);
        else if (fsb_session_key_is_(&j, "attachments"))
            err = fsb_session_read_attachments_(block, j.value, m);
        else err = fsb_session_read_verbatim_(block, &j, "metadata", "metadata_text", &m->metadata);
    }
    return err ? err : m->role && m->role[0] ? 0 : -EBADMSG;
}

static int fsb_session_read_tags_(fsb_session_block *block, fsb_session_span value,
                                  fsb_session_info *info)
{
    fsb_session_json_ j;
    size_t            count = 0;
    if (!fsb_session_enter_(&j, value) || j.kind != '[') return -EBADMSG;
    while (fsb_session_member_(&j)) ++count;
    const char **tags = (const char **)fsb_session_block_take_(block, (count + 1) * sizeof *tags);
    if (!tags) return -ENOMEM;
    fsb_session_enter_(&j, value);
    for (size_t i = 0; i < count && fsb_session_member_(&j); ++i) {
        const int err = fsb_session_read_text_(block, j.value, &tags[i]);
        if (err) return err;
    }
    info->tags = tags, info->tag_count = count;
    return 0;
}

/* Members of a session line into *info: those that are not there keep their values, but the title,
   tags, JSON and branch of an earlier line do not. */
static int fsb_session_read_info_(fsb_session_block *block, fsb_session_span line,
                                  fsb_session_info *info, fsb_session_branch_ *branch)
{
    fsb_session_json_ j;
    fsb_session_span  none = {"", 0};
    int               err = 0;
    info->title = info->parent = "";
    info->tag_count = 0, info->fork_id = 0, branch->inherits = 0, branch->forked = 0;
    branch->rewrites = 0;
    info->config = info->metadata = none;
    if (!fsb_session_enter_(&j, line)) return -EBADMSG;
    while (!err && fsb_session_member_(&j)) {
        const char **text = fsb_session_key_is_(&j, "session") ? &info->id
                          : fsb_session_key_is_(&j, "user") ? &info->user
                          : fsb_session_key_is_(&j, "title") ? &info->title
                          : fsb_session_key_is_(&j, "parent") ? &info->parent : NULL;
        if (text) err = fsb_session_read_text_(block, j.value, text);
        else if (fsb_session_key_is_(&j, "fsb"))
            err = fsb_session_uint_(j.value) > FSB_SESSION_FORMAT_ ? -ENOTSUP : 0;
        else if (fsb_session_key_is_(&j, "created"))
            err = fsb_session_read_time_(j.value, &info->created_ns);
        else if (fsb_session_key_is_(&j, "updated"))
            err = fsb_session_read_time_(j.value, &info->updated_ns);
        else if (fsb_session_key_is_(&j, "tags"))
            err = fsb_session_read_tags_(block, j.value, info);
        else if (fsb_session_key_is_(&j, "fork")) info->fork_id = fsb_session_uint_(j.value);
        else if (fsb_session_key_is_(&j, "inherits"))
            branch->inherits = fsb_session_uint_(j.value);
        else if (fsb_session_key_is_(&j, "rewrites"))
            branch->rewrites = fsb_session_uint_(j.value);
        else if (fsb_session_key_is_(&j, "forked")) branch->forked = 1;
        else if (!(err = fsb_session_read_verbatim_(block, &j, "config", "config_text",
                                                    &info->config)))
            err =
                fsb_session_read_verbatim_(block, &j, "metadata", "metadata_text", &info->metadata);
    }
    return err;
}

typedef enum fsb_session_line_kind_ {
    FSB_SESSION_BAD_LINE_,
    FSB_SESSION_BLANK_LINE_,
    FSB_SESSION_HEAD_LINE_,
    FSB_SESSION_MESSAGE_LINE_,
    FSB_SESSION_SEAL_LINE_ /* the file is about to be replaced or removed */
} fsb_session_line_kind_;

static fsb_session_line_kind_ fsb_session_line_kind_of_(fsb_session_span line)
{
    fsb_session_json_       j;
    fsb_session_line_kind_ kind = FSB_SESSION_BAD_LINE_;
    const char *end = line.data + line.size, *p = fsb_session_blank_(line.data, end);
    if (p == end) return FSB_SESSION_BLANK_LINE_;
    if (*p != '{' || !fsb_session_is_json_(line, FSB_SESSION_JSON_DEPTH_)) return kind;
    fsb_session_enter_(&j, line);
    while (kind == FSB_SESSION_BAD_LINE_ && fsb_session_member_(&j))
        kind = fsb_session_key_is_(&j, "fsb") ? FSB_SESSION_HEAD_LINE_
             : fsb_session_key_is_(&j, "role") ? FSB_SESSION_MESSAGE_LINE_
             : fsb_session_key_is_(&j, "replaced") ? FSB_SESSION_SEAL_LINE_ : FSB_SESSION_BAD_LINE_;
    return kind;
}

/* Walks lines: those that are read, with what they say. It resumes where an earlier walk ended if
   the caller keeps info and the rest. */
typedef struct fsb_session_walk_ {
    fsb_session_info info;     /* as of the last session line; counts of all messages so far */
    fsb_session_branch_ branch;
    uint64_t         at, size; /* bytes of text behind us, and of the text */
    uint64_t         line;     /* its number, from 1 */
    uint64_t         bad_lines, first_bad_line;
    uint64_t         offset;   /* of the line just read */
    int              sealed;   /* a seal line was met */
} fsb_session_walk_;

/* A message's id is the one written if it is beyond the one before it, else the next: so ids stay
   unique though two processes append at once, or somebody edits the file. */
static void fsb_session_settle_(fsb_session_info *info, fsb_session_message *m)
{
    if (m->id <= info->last_id) m->id = info->last_id + 1;
    if (!m->time_ns) m->time_ns = info->updated_ns ? info->updated_ns : 1;
    fsb_session_count_in_(info, m);
}

/* Takes the next line of text. MESSAGE: *m is it (its parts in `block`). BAD: it was counted.
   BLANK: there is no whole line left. Session lines and seals are taken in passing. */
static int fsb_session_step_(fsb_session_walk_ *w, fsb_session_block *block, const char *text,
                             fsb_session_message *m, fsb_session_line_kind_ *kind)
{
    *kind = FSB_SESSION_BLANK_LINE_;
    while (w->at < w->size) {
        const char *begin = text + w->at;
        const char *feed = (const char *)memchr(begin, '\n', (size_t)(w->size - w->at));
        if (!feed) return 0; /* torn, or just being written */
        const fsb_session_span line = {begin, (size_t)(feed - begin)};
        w->offset = w->at;
        w->at += line.size + 1, ++w->line;
        *kind = fsb_session_line_kind_of_(line);
        int err = 0;
        if (*kind == FSB_SESSION_MESSAGE_LINE_) err = fsb_session_read_message_(block, line, m);
        else if (*kind == FSB_SESSION_HEAD_LINE_)
            err = fsb_session_read_info_(block, line, &w->info, &w->branch);
        else if (*kind == FSB_SESSION_SEAL_LINE_) w->sealed = 1;
        if (err == -ENOMEM || err == -ENOTSUP) return err;
        if (err) *kind = FSB_SESSION_BAD_LINE_;
        if (*kind == FSB_SESSION_MESSAGE_LINE_) return fsb_session_settle_(&w->info, m), 0;
        if (*kind == FSB_SESSION_BAD_LINE_) {
            if (!w->bad_lines++) w->first_bad_line = w->line;
            return 0;
        }
        *kind = FSB_SESSION_BLANK_LINE_;
    }
    return 0;
}

static void fsb_session_walk_begin_(fsb_session_walk_ *w, const char *user, const char *id,
                                    uint64_t size)
{
    fsb_session_span none = {"", 0};
    memset(w, 0, sizeof *w);
    w->info.user = user, w->info.id = id, w->info.title = w->info.parent = "";
    w->info.config = w->info.metadata = none;
    w->size = size;
}

/* Collects the messages of a text that a range asks for. */
static int fsb_session_gather_(fsb_session_buf_ *list, const fsb_session_range *range,
                               const fsb_session_message *m)
{
    if (range && (m->id < range->first_id || (range->last_id && m->id > range->last_id))) return 0;
    fsb_session_put_(list, m, sizeof *m);
    return list->err;
}

/* Hands the collected messages over as the result. */
static int fsb_session_gathered_(fsb_session_buf_ *list, const fsb_session_range *range,
                                 fsb_session_block *block, fsb_session_messages *out)
{
    const size_t count = list->size / sizeof *out->at;
    const size_t keep = range && range->newest && range->newest < count ? (size_t)range->newest
                                                                       : count;
    fsb_session_message *at = NULL;
    if (!list->err)
        at = (fsb_session_message *)fsb_session_block_take_(block, keep * sizeof *at + 1);
    if (at && keep) memcpy(at, (fsb_session_message *)(void *)list->data + (count - keep),
                           keep * sizeof *at);
    fsb_session_unbuffer_(list);
    out->at = at, out->count = keep;
    return at ? 0 : -ENOMEM;
}

/* ---- [log] ----------------------------------------------------------------------------------- */
/* The search index of a user's files, path/USER/.words: little-endian records that are only ever
   added. It is a cache: whatever is wrong with it, it is made anew.
   A message's record has the role and the words; a session's has what a list shows, and how much
   of which file the records before it cover. A session whose file was rewritten gets the next
   generation: the records of earlier ones are dead. */
typedef enum fsb_session_record_kind_ {
    FSB_SESSION_MESSAGE_ = 1, FSB_SESSION_SESSION_ = 2, FSB_SESSION_GONE_ = 3
} fsb_session_record_kind_;

typedef struct fsb_session_record_ {
    uint32_t size; /* with this header; the payload follows */
    uint16_t kind, role_size;
    uint64_t check; /* hash of all behind it */
    uint32_t session, generation;
    uint32_t words, unused;
    uint64_t id; /* of the message; a session: its last one */
    int64_t  time_ns;
    uint64_t offset; /* of the line in its file; a session: how much of the file is covered */
} fsb_session_record_;

typedef struct fsb_session_extent_ { /* begins the payload of a session's record */
    uint64_t ino, size, stamp, messages, bytes, cold;
    int64_t  mtime_ns, updated_ns;
} fsb_session_extent_;

static const char fsb_session_log_magic_[16] = {'f', 's', 'b', 'w', 'o', 'r', 'd', 's',
                                                1, 0, 0, 0, 4, 3, 2, 1};

/* To the order of the file, or back. */
static void fsb_session_record_order_(fsb_session_record_ *r)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    r->size = __builtin_bswap32(r->size), r->kind = __builtin_bswap16(r->kind);
    r->role_size = __builtin_bswap16(r->role_size), r->words = __builtin_bswap32(r->words);
    r->session = __builtin_bswap32(r->session);
    r->generation = __builtin_bswap32(r->generation);
#endif
    r->check = fsb_session_little_(r->check), r->id = fsb_session_little_(r->id);
    r->time_ns = (int64_t)fsb_session_little_((uint64_t)r->time_ns);
    r->offset = fsb_session_little_(r->offset);
}

static void fsb_session_extent_order_(fsb_session_extent_ *x)
{
    x->ino = fsb_session_little_(x->ino), x->size = fsb_session_little_(x->size);
    x->stamp = fsb_session_little_(x->stamp), x->messages = fsb_session_little_(x->messages);
    x->bytes = fsb_session_little_(x->bytes), x->cold = fsb_session_little_(x->cold);
    x->mtime_ns = (int64_t)fsb_session_little_((uint64_t)x->mtime_ns);
    x->updated_ns = (int64_t)fsb_session_little_((uint64_t)x->updated_ns);
}

static void fsb_session_put_record_(fsb_session_buf_ *b, fsb_session_record_ r,
                                    fsb_session_span head, fsb_session_span text)
{
    const size_t at = b->size;
    if (head.size + text.size > UINT32_MAX / 2) return;
    r.size = (uint32_t)(sizeof r + head.size + text.size);
    const uint32_t size = r.size;
    const uint64_t seed = (uint64_t)size << 16 | r.kind;
    fsb_session_record_order_(&r);
    fsb_session_put_(b, &r, sizeof r);
    fsb_session_put_(b, head.data, head.size);
    fsb_session_put_(b, text.data, text.size);
    if (b->err) return;
    r.check = fsb_session_little_(fsb_session_hash_(seed, b->data + at + 16, size - 16));
    memcpy(b->data + at, &r, sizeof r);
}

/* The record at p, if it is whole; its payload follows it there. */
static int fsb_session_get_record_(const char *p, size_t size, fsb_session_record_ *r)
{
    if (size < sizeof *r) return 0;
    memcpy(r, p, sizeof *r);
    fsb_session_record_order_(r);
    return r->size >= sizeof *r && r->size <= size && r->role_size <= r->size - sizeof *r;
}

static int fsb_session_right_(const char *p, const fsb_session_record_ *r)
{
    return r->check == fsb_session_hash_((uint64_t)r->size << 16 | r->kind, p + 16, r->size - 16);
}

/* ---- [shelf] --------------------------------------------------------------------------------- */
typedef struct fsb_session_book_ { /* a session as the index knows it */
    fsb_session_info   info;
    fsb_session_block *names;
    fsb_session_branch_ branch;
    uint64_t           covered;
    uint64_t           ino, size, stamp; /* stamp: of the file's beginning */
    int64_t            mtime_ns;
    uint32_t           generation;
    int                live, seen;
    uint64_t           title_at, log_bytes; /* where the title's record is; bytes of its records */
} fsb_session_book_;

typedef struct fsb_session_shelf_ {
    struct fsb_session_shelf_ *next;
    fsb_session_store         *store;
    pthread_mutex_t            lock; /* guards all below; taken before store->lock */
    char                       user[FSB_SESSION_NAME_MAX + 1];
    int                        fd;   /* of .words; -1: the index is in `fresh` only */
    uint64_t                   ino, end; /* of .words; how much of it is loaded */
    uint64_t                   dead; /* bytes of records that nobody needs */
    int                        unread; /* sessions that the last look at the folder left out */
    int                        private_state; /* what is known could not be written: forget it */
    fsb_session_buf_           fresh; /* records that are not in .words */
    fsb_session_buf_           books; /* of fsb_session_book_; a session's number is its place */
    fsb_session_buf_           slots; /* of uint32_t: hash of ids -> number + 1 */
} fsb_session_shelf_;

static fsb_session_book_ *fsb_session_book_at_(fsb_session_shelf_ *shelf, size_t i)
{
    return (fsb_session_book_ *)(void *)shelf->books.data + i;
}

static size_t fsb_session_book_count_(const fsb_session_shelf_ *shelf)
{
    return shelf->books.size / sizeof(fsb_session_book_);
}

static void fsb_session_forget_(fsb_session_shelf_ *shelf)
{
    for (size_t i = 0; i < fsb_session_book_count_(shelf); ++i)
        fsb_session_block_free_(fsb_session_book_at_(shelf, i)->names);
    fsb_session_unbuffer_(&shelf->books), fsb_session_unbuffer_(&shelf->slots);
    fsb_session_unbuffer_(&shelf->fresh);
    shelf->end = sizeof fsb_session_log_magic_, shelf->dead = 0, shelf->private_state = 0;
}

static void fsb_session_shelf_close_(fsb_session_shelf_ *shelf)
{
    fsb_session_forget_(shelf);
    if (shelf->fd >= 0) close(shelf->fd);
    pthread_mutex_destroy(&shelf->lock);
    fsb_session_drop_(&shelf->store->desc.allocator, shelf, sizeof *shelf);
}

static void fsb_session_slot_in_(fsb_session_shelf_ *shelf, const char *id, uint32_t number)
{
    uint32_t    *slots = (uint32_t *)(void *)shelf->slots.data;
    const size_t mask = shelf->slots.size / sizeof *slots - 1;
    size_t       i = (size_t)fsb_session_hash_(0, id, strlen(id)) & mask;
    while (slots[i]) i = (i + 1) & mask;
    slots[i] = number + 1;
}

static int fsb_session_more_slots_(fsb_session_shelf_ *shelf)
{
    const size_t count = fsb_session_book_count_(shelf), have = shelf->slots.size / 4;
    if (count * 2 < have) return 0;
    shelf->slots.size = 0;
    const size_t want = (have ? have * 2 : 64) * 4;
    if (fsb_session_reserve_(&shelf->slots, want)) return -ENOMEM;
    memset(shelf->slots.data, 0, want);
    shelf->slots.size = want;
    for (size_t i = 0; i < count; ++i)
        fsb_session_slot_in_(shelf, fsb_session_book_at_(shelf, i)->info.id, (uint32_t)i);
    return 0;
}

/* The number of the session with this id, made if it is new; or -ENOMEM. */
static int64_t fsb_session_book_number_(fsb_session_shelf_ *shelf, const char *id)
{
    if (fsb_session_more_slots_(shelf)) return -ENOMEM;
    const uint32_t *slots = (const uint32_t *)(const void *)shelf->slots.data;
    const size_t    mask = shelf->slots.size / sizeof *slots - 1;
    for (size_t i = (size_t)fsb_session_hash_(0, id, strlen(id)) & mask; slots[i];
         i = (i + 1) & mask)
        if (strcmp(fsb_session_book_at_(shelf, slots[i] - 1)->info.id, id) == 0)
            return slots[i] - 1;
    fsb_session_book_ book;
    fsb_session_info  info;
    memset(&book, 0, sizeof book), memset(&info, 0, sizeof info);
    info.user = shelf->user, info.id = id;
    if (!(book.names = fsb_session_block_new_(&shelf->store->desc.allocator))) return -ENOMEM;
    if (fsb_session_copy_info_(book.names, &book.info, &info) ||
        fsb_session_reserve_(&shelf->books, sizeof book)) {
        fsb_session_block_free_(book.names);
        return -ENOMEM;
    }
    const uint32_t number = (uint32_t)fsb_session_book_count_(shelf);
    fsb_session_put_(&shelf->books, &book, sizeof book);
    fsb_session_slot_in_(shelf, book.info.id, number);
    return number;
}

/* Gives a book its info; the strings are copied. */
static int fsb_session_book_set_(fsb_session_shelf_ *shelf, fsb_session_book_ *book,
                                 const fsb_session_info *info, fsb_session_branch_ branch)
{
    fsb_session_block *names = fsb_session_block_new_(&shelf->store->desc.allocator);
    fsb_session_info   copy = *info;
    copy.user = shelf->user, copy.id = book->info.id;
    if (!names || fsb_session_copy_info_(names, &copy, &copy)) {
        fsb_session_block_free_(names);
        return -ENOMEM;
    }
    fsb_session_block_free_(book->names);
    book->names = names, book->info = copy, book->branch = branch;
    return 0;
}

/* Takes in the record of a session: what it says about the book replaces what was known. */
static int fsb_session_apply_session_(fsb_session_shelf_ *shelf, const fsb_session_record_ *r,
                                      const char *payload, size_t size)
{
    fsb_session_extent_ extent;
    fsb_session_walk_   w;
    if (size < sizeof extent) return -EBADMSG;
    memcpy(&extent, payload, sizeof extent);
    fsb_session_extent_order_(&extent);
    fsb_session_block *block = fsb_session_block_new_(&shelf->store->desc.allocator);
    if (!block) return -ENOMEM;
    const fsb_session_span line = {payload + sizeof extent, size - sizeof extent};
    fsb_session_walk_begin_(&w, shelf->user, "", 0);
    int err = fsb_session_is_json_(line, FSB_SESSION_JSON_DEPTH_)
            ? fsb_session_read_info_(block, line, &w.info, &w.branch) : -EBADMSG;
    const int64_t number = err ? err : fsb_session_book_number_(shelf, w.info.id);
    if (number >= 0 && number != (int64_t)r->session) err = -EBADMSG;
    if (number < 0) err = (int)number;
    if (!err) {
        fsb_session_book_ *book = fsb_session_book_at_(shelf, (size_t)number);
        w.info.last_id = r->id, w.info.message_count = extent.messages, w.info.bytes = extent.bytes;
        w.info.updated_ns = extent.updated_ns, w.info.cold = (uint32_t)extent.cold;
        err = fsb_session_book_set_(shelf, book, &w.info, w.branch);
        book->covered = r->offset, book->ino = extent.ino, book->size = extent.size;
        book->stamp = extent.stamp;
        book->mtime_ns = extent.mtime_ns, book->live = 1;
        if (book->generation != r->generation) {
            shelf->dead += book->log_bytes;
            book->log_bytes = 0, book->generation = r->generation;
        }
    }
    fsb_session_block_free_(block);
    return err;
}

/* Takes in a record at log position `at`. */
static int fsb_session_apply_(fsb_session_shelf_ *shelf, const char *p,
                              const fsb_session_record_ *r, uint64_t at)
{
    if (r->kind == FSB_SESSION_SESSION_)
        return fsb_session_apply_session_(shelf, r, p + sizeof *r, r->size - sizeof *r);
    if (r->session >= fsb_session_book_count_(shelf)) return -EBADMSG;
    fsb_session_book_ *book = fsb_session_book_at_(shelf, r->session);
    if (r->kind == FSB_SESSION_GONE_) {
        book->live = 0, shelf->dead += book->log_bytes, book->log_bytes = 0;
        book->generation = r->generation;
        return 0;
    }
    if (book->generation != r->generation) {
        shelf->dead += book->log_bytes;
        book->log_bytes = 0, book->generation = r->generation, book->title_at = 0;
    }
    book->log_bytes += r->size;
    if (!r->id) book->title_at = at;
    return 0;
}

/* Reads what was added to .words, and stops at the first record that is not whole. */
static int fsb_session_catch_up_log_(fsb_session_shelf_ *shelf)
{
    const size_t     step = 1 << 20;
    fsb_session_buf_ b = fsb_session_buffer_(&shelf->store->desc.allocator);
    int              err = 0;
    while (!err) {
        if ((err = fsb_session_reserve_(&b, step))) break;
        const ssize_t n = pread(shelf->fd, b.data + b.size, b.cap - b.size,
                                (off_t)(shelf->end + b.size));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        b.size += (size_t)n;
        size_t              at = 0;
        fsb_session_record_ r;
        while (!err && fsb_session_get_record_(b.data + at, b.size - at, &r)) {
            if (!fsb_session_right_(b.data + at, &r)) err = -EBADMSG;
            else if (!(err = fsb_session_apply_(shelf, b.data + at, &r, shelf->end))) {
                at += r.size, shelf->end += r.size;
            }
        }
        memmove(b.data, b.data + at, b.size - at);
        b.size -= at;
    }
    fsb_session_unbuffer_(&b);
    return err == -EBADMSG ? 0 : err; /* the writer cuts it off */
}

static int fsb_session_is_log_(int fd)
{
    char magic[sizeof fsb_session_log_magic_];
    return pread(fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
           memcmp(magic, fsb_session_log_magic_, sizeof magic) == 0;
}

/* A store with no_search leaves the words out, so it has an index of its own. */
static void fsb_session_log_path_(char *log, size_t size, const fsb_session_store *store,
                                  const char *user, const char *suffix)
{
    snprintf(log, size, "%s/%s%s", user, store->desc.no_search ? ".titles" : ".words", suffix);
}

/* Opens .words, or makes it; without one (read-only, disk full) the index lives in memory. */
static int fsb_session_open_log_(fsb_session_shelf_ *shelf)
{
    char        path[FSB_SESSION_NAME_MAX + 16];
    struct stat st;
    const int   writable = !shelf->store->desc.read_only;
    fsb_session_log_path_(path, sizeof path, shelf->store, shelf->user, "");
    if (shelf->fd >= 0 && fstatat(shelf->store->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_ino == shelf->ino && !shelf->private_state)
        return 0;
    if (shelf->fd < 0 && shelf->fresh.size && !shelf->private_state) return 0; /* memory only */
    if (shelf->fd >= 0) close(shelf->fd);
    fsb_session_forget_(shelf);
    shelf->fd = openat(shelf->store->fd, path, (writable ? O_RDWR | O_CREAT : O_RDONLY) | O_APPEND |
                       O_CLOEXEC | O_NOFOLLOW, 0600);
    if (shelf->fd < 0) return 0;
    if (fstat(shelf->fd, &st) == 0 && S_ISREG(st.st_mode)) {
        shelf->ino = st.st_ino;
        if (fsb_session_is_log_(shelf->fd)) return 0;
        /* Older, foreign, or just made: begin anew, unless another process is faster. */
        if (writable && flock(shelf->fd, LOCK_EX) == 0) {
            const int fine = fsb_session_is_log_(shelf->fd) ||
                (ftruncate(shelf->fd, 0) == 0 &&
                 write(shelf->fd, fsb_session_log_magic_, sizeof fsb_session_log_magic_) ==
                     (ssize_t)sizeof fsb_session_log_magic_);
            flock(shelf->fd, LOCK_UN);
            if (fine) return 0;
        }
    }
    close(shelf->fd);
    shelf->fd = -1;
    return 0;
}

/* Adds one message's record. Message 0 stands for the title and tags. */
static void fsb_session_index_message_(fsb_session_shelf_ *shelf, uint32_t number,
                                       const fsb_session_message *m, uint64_t offset,
                                       fsb_session_buf_ *words)
{
    fsb_session_record_ r;
    fsb_session_book_  *book = fsb_session_book_at_(shelf, number);
    memset(&r, 0, sizeof r);
    words->size = 0;
    r.words = fsb_session_put_words_(words, m->content);
    r.kind = FSB_SESSION_MESSAGE_, r.role_size = (uint16_t)strlen(m->role);
    r.session = number, r.generation = book->generation;
    r.id = m->id, r.time_ns = m->time_ns, r.offset = offset;
    const fsb_session_span role = {m->role, r.role_size}, text = {words->data, words->size};
    const size_t           before = shelf->fresh.size;
    fsb_session_put_record_(&shelf->fresh, r, role, text);
    book->log_bytes += shelf->fresh.size - before;
    if (!m->id) book->title_at = shelf->end + before;
}

static void fsb_session_index_title_(fsb_session_shelf_ *shelf, uint32_t number,
                                     const fsb_session_info *info, fsb_session_buf_ *words)
{
    fsb_session_buf_    text = fsb_session_buffer_(&shelf->store->desc.allocator);
    fsb_session_message m;
    fsb_session_put_title_(&text, info);
    memset(&m, 0, sizeof m);
    m.role = "", m.time_ns = info->created_ns;
    m.content.data = text.data, m.content.size = text.size;
    if (!text.err) fsb_session_index_message_(shelf, number, &m, 0, words);
    fsb_session_unbuffer_(&text);
}

static void fsb_session_put_session_record_(fsb_session_shelf_ *shelf, uint32_t number)
{
    const fsb_session_book_ *book = fsb_session_book_at_(shelf, number);
    fsb_session_record_      r;
    fsb_session_extent_      extent;
    fsb_session_buf_         line = fsb_session_buffer_(&shelf->store->desc.allocator);
    memset(&r, 0, sizeof r), memset(&extent, 0, sizeof extent);
    r.kind = FSB_SESSION_SESSION_, r.session = number, r.generation = book->generation;
    r.id = book->info.last_id, r.offset = book->covered;
    extent.ino = book->ino, extent.size = book->size, extent.stamp = book->stamp;
    extent.mtime_ns = book->mtime_ns;
    extent.messages = book->info.message_count, extent.bytes = book->info.bytes;
    extent.updated_ns = book->info.updated_ns, extent.cold = book->info.cold;
    fsb_session_put_(&line, "{", 1);
    fsb_session_put_info_(&line, &book->info, &book->branch);
    fsb_session_put_(&line, "}", 1);
    fsb_session_extent_order_(&extent);
    const fsb_session_span head = {(const char *)&extent, sizeof extent};
    const fsb_session_span text = {line.data, line.size};
    if (line.err) shelf->fresh.err = line.err;
    else fsb_session_put_record_(&shelf->fresh, r, head, text);
    fsb_session_unbuffer_(&line);
}

static int fsb_session_slurp_(int fd, uint64_t from, fsb_session_buf_ *b); /* all from there on */
static int fsb_session_read_cold_(fsb_session_store *store, const char *user, const char *id,
                                  fsb_session_buf_ *b);
static void fsb_session_path_(char *path, size_t size, const char *user, const char *id,
                              const char *suffix);
enum { FSB_SESSION_PATH_ = 2 * FSB_SESSION_NAME_MAX + 48 };

static int fsb_session_open_file_(fsb_session_store *store, const char *user, const char *id)
{
    char path[FSB_SESSION_PATH_];
    fsb_session_path_(path, sizeof path, user, id, ".jsonl");
    return openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

/* Of a file's first line, which says how often it was rewritten: inode numbers are used again. */
static uint64_t fsb_session_stamp_(int fd)
{
    char          head[64];
    const ssize_t n = pread(fd, head, sizeof head, 0);
    const char   *feed = n > 0 ? (const char *)memchr(head, '\n', (size_t)n) : NULL;
    return n > 0 ? fsb_session_hash_(1, head, feed ? (size_t)(feed - head) : (size_t)n) : 0;
}

/* Brings a book up to date with its file: reads only what was added, or all if it is another. */
static int fsb_session_read_book_(fsb_session_shelf_ *shelf, uint32_t number, const struct stat *st,
                                  int cold)
{
    fsb_session_book_ *book = fsb_session_book_at_(shelf, number);
    const fsb_allocator *mem = &shelf->store->desc.allocator;
    const int fd = cold ? -1 : fsb_session_open_file_(shelf->store, shelf->user, book->info.id);
    const uint64_t stamp = fd < 0 ? 0 : fsb_session_stamp_(fd);
    const int      same = book->live && book->ino == st->st_ino && !cold && !book->info.cold &&
                     (uint64_t)st->st_size >= book->covered && stamp == book->stamp;
    fsb_session_buf_   text = fsb_session_buffer_(mem), words = fsb_session_buffer_(mem);
    fsb_session_block *block = fsb_session_block_new_(mem);
    fsb_session_walk_  w;
    int                err = !block ? -ENOMEM : fd < 0 && !cold ? -ENOENT : 0;
    fsb_session_walk_begin_(&w, shelf->user, book->info.id, 0);
    if (same) w.info = book->info, w.branch = book->branch;
    else { /* a record first, for those that follow; it covers nothing, should they get lost */
        ++book->generation, book->covered = book->ino = book->size = 0, book->title_at = 0;
        shelf->dead += book->log_bytes, book->log_bytes = 0;
        fsb_session_put_session_record_(shelf, number);
    }
    if (!err && cold) err = fsb_session_read_cold_(shelf->store, shelf->user, book->info.id, &text);
    else if (!err) err = fsb_session_slurp_(fd, book->covered, &text);
    w.size = text.size;
    const uint64_t         base = book->covered;
    fsb_session_line_kind_ kind = FSB_SESSION_BAD_LINE_;
    fsb_session_message    m;
    while (!err && kind != FSB_SESSION_BLANK_LINE_) {
        err = fsb_session_step_(&w, block, text.data, &m, &kind);
        if (!err && kind == FSB_SESSION_MESSAGE_LINE_ && m.id > w.branch.inherits &&
            !shelf->store->desc.no_search)
            fsb_session_index_message_(shelf, number, &m, base + w.offset, &words);
    }
    if (!err) {
        const int titled = !same || strcmp(w.info.title, book->info.title) != 0 ||
                           w.info.tags != book->info.tags;
        w.info.cold = (uint32_t)cold;
        err = fsb_session_book_set_(shelf, book, &w.info, w.branch);
        book->live = 1, book->covered = base + w.at;
        book->ino = st->st_ino, book->size = (uint64_t)st->st_size, book->stamp = stamp;
        book->mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
        if (!err && titled) fsb_session_index_title_(shelf, number, &book->info, &words);
        if (!err) fsb_session_put_session_record_(shelf, number);
    }
    if (fd >= 0) close(fd);
    fsb_session_unbuffer_(&text), fsb_session_unbuffer_(&words);
    fsb_session_block_free_(block);
    return err ? err : shelf->fresh.err;
}

/* One name of the user's folder. A session that cannot be read is left out, and told. */
static int fsb_session_look_at_(fsb_session_shelf_ *shelf, int dir, const char *name)
{
    char         id[FSB_SESSION_NAME_MAX + 1];
    struct stat  st;
    const size_t n = strlen(name);
    const int    cold = n > 10 && strcmp(name + n - 10, ".jsonl.zst") == 0;
    const size_t id_size = cold ? n - 10 : n > 6 && strcmp(name + n - 6, ".jsonl") == 0 ? n - 6 : 0;
    if (!id_size || id_size > FSB_SESSION_NAME_MAX || name[0] == '.') return 0;
    memcpy(id, name, id_size);
    id[id_size] = '\0';
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) return errno == ENOENT ? 0 : -errno;
    if (!S_ISREG(st.st_mode)) return 0;
    const int64_t number = fsb_session_book_number_(shelf, id);
    if (number < 0) return (int)number;
    fsb_session_book_ *book = fsb_session_book_at_(shelf, (size_t)number);
    if (book->seen && cold) return 0; /* thawed, and the cold file not yet removed */
    book->seen = 1;
    const int64_t mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    if (book->live && book->ino == st.st_ino && book->size == (uint64_t)st.st_size &&
        book->mtime_ns == mtime_ns)
        return 0;
    const int err = fsb_session_read_book_(shelf, (uint32_t)number, &st, cold);
    if (err == -ENOMEM || err == -EMFILE || err == -ENFILE || err == -EINTR) return err;
    if (err && err != -ENOENT) {
        ++shelf->unread;
        fsb_session_log_(shelf->store, FSB_LOG_WARN, "session/unreadable", "%s/%s: error %d",
                         shelf->user, id, -err);
    }
    return 0;
}

static int fsb_session_scan_folder_(fsb_session_shelf_ *shelf)
{
    const int      fd = openat(shelf->store->fd, shelf->user,
                               O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR           *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *d;
    int            err = 0;
    if (!dir && errno != ENOENT) err = -errno;
    if (!dir && fd >= 0) close(fd);
    if (err) return err;
    for (size_t i = 0; i < fsb_session_book_count_(shelf); ++i)
        fsb_session_book_at_(shelf, i)->seen = 0;
    shelf->unread = 0;
    while (dir && !err) {
        errno = 0; /* which is all that tells an error from the end */
        if ((d = readdir(dir)) == NULL) err = -errno;
        if (!d) break;
        err = fsb_session_look_at_(shelf, fd, d->d_name);
    }
    if (dir) closedir(dir);
    for (size_t i = 0; !err && i < fsb_session_book_count_(shelf); ++i) {
        fsb_session_book_ *book = fsb_session_book_at_(shelf, i);
        if (book->seen || !book->live) continue;
        fsb_session_record_    r;
        const fsb_session_span none = {NULL, 0};
        memset(&r, 0, sizeof r);
        book->live = 0, shelf->dead += book->log_bytes, book->log_bytes = 0;
        r.kind = FSB_SESSION_GONE_, r.session = (uint32_t)i, r.generation = ++book->generation;
        fsb_session_put_record_(&shelf->fresh, r, none, none);
    }
    return err ? err : shelf->fresh.err;
}

static int fsb_session_lock_log_(fsb_session_shelf_ *shelf) /* waits 50 ms at most; 1 if locked */
{
    const struct timespec nap = {0, 2000000};
    for (int i = 0; i < 25; ++i) {
        if (shelf->fd < 0 || shelf->store->desc.read_only) return 0;
        if (flock(shelf->fd, LOCK_EX | LOCK_NB) == 0) return 1;
        nanosleep(&nap, NULL);
    }
    return 0;
}

/* More dead than alive: the index is made anew aside, and takes the old one's place. */
static void fsb_session_renew_log_(fsb_session_shelf_ *shelf)
{
    char path[FSB_SESSION_PATH_], aside[FSB_SESSION_PATH_];
    fsb_session_log_path_(path, sizeof path, shelf->store, shelf->user, "");
    fsb_session_log_path_(aside, sizeof aside, shelf->store, shelf->user, ".new");
    const int fd = /* the old log's lock guards it */
        openat(shelf->store->fd, aside, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (write(fd, fsb_session_log_magic_, 16) == 16 &&
        renameat(shelf->store->fd, aside, shelf->store->fd, path) == 0) {
        shelf->private_state = 1; /* the next look opens the new one, and fills it */
    } else unlinkat(shelf->store->fd, aside, 0);
    close(fd);
}

static void fsb_session_write_log_(fsb_session_shelf_ *shelf)
{
    struct stat st;
    if (fstat(shelf->fd, &st) || (uint64_t)st.st_size < shelf->end ||
        ((uint64_t)st.st_size > shelf->end && ftruncate(shelf->fd, (off_t)shelf->end)))
        shelf->private_state = 1; /* somebody else made it anew */
    else if (shelf->fresh.size) {
        const ssize_t n = write(shelf->fd, shelf->fresh.data, shelf->fresh.size);
        if (n == (ssize_t)shelf->fresh.size) shelf->end += shelf->fresh.size, shelf->fresh.size = 0;
        else shelf->private_state = 1;
    }
    if (shelf->end > 1 << 20 && shelf->dead > shelf->end / 2) fsb_session_renew_log_(shelf);
}

/* Makes the shelf agree with the files. Only who has the log's lock adds to it; who does not get it
   soon enough (or may not write) uses what it found out for itself, and forgets it next time. */
static int fsb_session_refresh_(fsb_session_shelf_ *shelf)
{
    int err = fsb_session_open_log_(shelf);
    const int locked = !err && fsb_session_lock_log_(shelf);
    if (!err && shelf->fd >= 0) err = fsb_session_catch_up_log_(shelf);
    if (!err) err = fsb_session_scan_folder_(shelf);
    if (err) fsb_session_forget_(shelf), shelf->private_state = 1;
    else if (locked) fsb_session_write_log_(shelf);
    else if (shelf->fd >= 0 && shelf->fresh.size) shelf->private_state = 1;
    if (locked) flock(shelf->fd, LOCK_UN);
    return err;
}

/* The shelf of a user, locked and up to date. */
static int fsb_session_take_shelf_(fsb_session_store *store, const char *user,
                                   fsb_session_shelf_ **out)
{
    fsb_session_shelf_ *shelf, *made = NULL;
    for (;;) {
        pthread_mutex_lock(&store->lock);
        for (shelf = store->shelves; shelf && strcmp(shelf->user, user) != 0;) shelf = shelf->next;
        if (!shelf && made) made->next = store->shelves, store->shelves = shelf = made, made = NULL;
        pthread_mutex_unlock(&store->lock);
        if (shelf) break;
        made = (fsb_session_shelf_ *)fsb_session_take_(&store->desc.allocator, sizeof *made);
        if (!made) return -ENOMEM;
        made->store = store, made->fd = -1;
        made->books = made->slots = made->fresh = fsb_session_buffer_(&store->desc.allocator);
        memcpy(made->user, user, strlen(user) + 1);
        pthread_mutex_init(&made->lock, NULL);
    }
    if (made) fsb_session_shelf_close_(made);
    pthread_mutex_lock(&shelf->lock);
    const int err = fsb_session_refresh_(shelf);
    if (err) pthread_mutex_unlock(&shelf->lock);
    else *out = shelf;
    return err;
}

/* ---- [files] --------------------------------------------------------------------------------- */
/* The store of plain files. An append is one write(2) on a descriptor with O_APPEND, without a
   lock; its place, told by lseek, shows whether anything else was added meanwhile. Whoever replaces
   or removes a file holds its flock and adds a seal line first: an append that landed behind a seal
   waits for that lock, and if the file has been replaced is repeated in the new one. A seal whose
   writer died means nothing.

   path/.pulse spares the lseek: counters in shared memory, one for the sessions of a hash. Each
   write adds one before and one after it; if nobody else did between our last write and the end of
   this one, it stands where we expect it. A seal adds one after it, and then looks whether anything
   stands behind it: a writer that saw no pulse wrote before, and is seen. */
static const char fsb_session_seal_[] = "{\"replaced\":true}\n";

static uint64_t fsb_session_beat_(const fsb_session *s) /* adds one; what it was before */
{
    return s->pulse ? __atomic_fetch_add(s->pulse, 1, __ATOMIC_SEQ_CST) : 0;
}

static void fsb_session_path_(char *path, size_t size, const char *user, const char *id,
                              const char *suffix)
{
    snprintf(path, size, "%s/%s%s", user, id, suffix);
}

static void fsb_session_path_of_(const fsb_session *s, const char *suffix, char *path)
{
    fsb_session_path_(path, FSB_SESSION_PATH_, s->info.user, s->info.id, suffix);
}

static int fsb_session_slurp_(int fd, uint64_t from, fsb_session_buf_ *b)
{
    struct stat st;
    if (fstat(fd, &st)) return -errno;
    if (!S_ISREG(st.st_mode)) return -EBADMSG;
    if ((uint64_t)st.st_size > from &&
        fsb_session_reserve_(b, (size_t)((uint64_t)st.st_size - from)))
        return -ENOMEM;
    for (;;) {
        const size_t  room = b->cap - b->size;
        const ssize_t n = room ? pread(fd, b->data + b->size, room, (off_t)(from + b->size)) : 0;
        if (n < 0 && errno != EINTR) return -errno;
        if (n == 0) return 0;
        if (n > 0) b->size += (size_t)n;
    }
}

static int fsb_session_flock_(int fd, int how) /* waits, whatever signals come */
{
    while (flock(fd, how))
        if (errno != EINTR) return -errno;
    return 0;
}

static int fsb_session_write_all_(int fd, const char *p, size_t size)
{
    while (size) {
        const ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        p += n, size -= (size_t)n;
    }
    return 0;
}

/* Makes a file beside its place and moves it there at once; exclusive: only if nothing is there.
   *keep, if wanted, gets the open descriptor. */
static int fsb_session_place_file_(fsb_session_store *store, const char *path,
                                   fsb_session_span text, int exclusive, int *keep)
{
    char aside[FSB_SESSION_PATH_ + 40];
    unsigned char salt[8] = {0};
    const char   *slash = strrchr(path, '/');
    if (getrandom(salt, sizeof salt, 0) < 0) salt[0] = (unsigned char)getpid();
    snprintf(aside, sizeof aside, "%.*s/.%02x%02x%02x%02x%02x%02x%02x%02x.tmp", (int)(slash - path),
             path, salt[0], salt[1], salt[2], salt[3], salt[4], salt[5], salt[6], salt[7]);
    const int fd = openat(store->fd, aside, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    int err = fsb_session_write_all_(fd, text.data, text.size);
    if (!err && store->desc.durability != FSB_SESSION_SYNC_NONE && fdatasync(fd)) err = -errno;
    if (!err && exclusive && linkat(store->fd, aside, store->fd, path, 0)) err = -errno;
    if (!err && !exclusive && renameat(store->fd, aside, store->fd, path)) err = -errno;
    if (err || exclusive) unlinkat(store->fd, aside, 0);
    if (!err && keep) *keep = fd;
    else close(fd);
    return err;
}

/* A new name is durable when its folder is: of a session that lost its only other name, before. */
static int fsb_session_sync_names_(fsb_session_store *store, const char *folder)
{
    if (store->desc.durability == FSB_SESSION_SYNC_NONE) return 0;
    const int fd = openat(store->fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int err = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0) close(fd);
    return err;
}

static int fsb_session_sync_folder_(fsb_session_store *store, const char *folder)
{
    if (store->desc.durability != FSB_SESSION_SYNC_SAVE) return 0;
    return fsb_session_sync_names_(store, folder);
}

#ifdef FSB_WITH_ZSTD
static int fsb_session_unpack_(fsb_session_span packed, fsb_session_buf_ *b)
{
    const unsigned long long size = ZSTD_getFrameContentSize(packed.data, packed.size);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR ||
        size > ((unsigned long long)packed.size / 4 + 1) << 17) /* 4 bytes hold 128 KiB at most */
        return -EBADMSG;
    if (fsb_session_reserve_(b, (size_t)size + 1)) return -ENOMEM;
    const size_t n = ZSTD_decompress(b->data, (size_t)size, packed.data, packed.size);
    if (ZSTD_isError(n) || n != size) return -EBADMSG;
    b->size = n;
    return 0;
}

static int fsb_session_pack_(const fsb_session_buf_ *text, fsb_session_buf_ *packed)
{
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    if (!zstd || fsb_session_reserve_(packed, ZSTD_compressBound(text->size)))
        return ZSTD_freeCCtx(zstd), -ENOMEM;
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 6);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1); /* one wrong bit may pass for text */
    const size_t n = ZSTD_compress2(zstd, packed->data, packed->cap, text->data, text->size);
    ZSTD_freeCCtx(zstd);
    if (ZSTD_isError(n)) return -ENOMEM;
    packed->size = n;
    return 0;
}
#else
static int fsb_session_unpack_(fsb_session_span packed, fsb_session_buf_ *b)
{
    (void)packed, (void)b;
    return -ENOSYS;
}

static int fsb_session_pack_(const fsb_session_buf_ *text, fsb_session_buf_ *packed)
{
    (void)text, (void)packed;
    return -ENOSYS;
}
#endif

static int fsb_session_read_cold_(fsb_session_store *store, const char *user, const char *id,
                                  fsb_session_buf_ *b)
{
    char path[FSB_SESSION_PATH_];
    fsb_session_path_(path, sizeof path, user, id, ".jsonl.zst");
    const int fd = openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -errno;
    fsb_session_buf_ packed = fsb_session_buffer_(b->mem);
    int              err = fsb_session_slurp_(fd, 0, &packed);
    close(fd);
    const fsb_session_span span = {packed.data, packed.size};
    if (!err) err = fsb_session_unpack_(span, b);
    fsb_session_unbuffer_(&packed);
    if (err == -ENOSYS) fsb_session_fail_(store, err, "%s/%s is compressed: build with "
                                          "FSB_WITH_ZSTD, or run zstd -d on it", user, id);
    return err;
}

static void fsb_session_files_release_(fsb_session *s)
{
    if (s->fd >= 0) {
        if (s->store->desc.durability == FSB_SESSION_SYNC_CHECKPOINT && s->mtime_ns)
            fdatasync(s->fd); /* mtime_ns: written to since the last one */
        close(s->fd);
    }
    s->fd = -1;
}

/* Takes in what a walk found: the session as it is in the file now. */
static int fsb_session_take_walk_(fsb_session *s, const fsb_session_walk_ *w)
{
    fsb_session_info info = w->info;
    info.user = s->info.user, info.id = s->info.id, info.cold = 0;
    const int err = fsb_session_adopt_(s, &info);
    if (err) return err;
    s->branch = w->branch;
    s->bad_lines = w->bad_lines, s->first_bad_line = w->first_bad_line;
    if (s->has_notes && !fsb_session_notes_agree_(s)) s->has_notes = 0, s->behind = 1;
    return 0;
}

/* The whole text of a session, walked through; messages, if wanted, go into the list. */
static int fsb_session_walk_text_(fsb_session *s, const fsb_session_buf_ *text,
                                  const fsb_session_range *range, fsb_session_block *block,
                                  fsb_session_buf_ *list, fsb_session_walk_ *w)
{
    fsb_session_line_kind_ kind = FSB_SESSION_BAD_LINE_;
    fsb_session_message    m;
    int                    err = 0;
    fsb_session_walk_begin_(w, s->info.user, s->info.id, text->size);
    while (!err && kind != FSB_SESSION_BLANK_LINE_) {
        err = fsb_session_step_(w, block, text->data, &m, &kind);
        if (!err && kind == FSB_SESSION_BAD_LINE_)
            fsb_session_log_(s->store, FSB_LOG_WARN, "session/bad-line",
                             "%s/%s.jsonl:%llu: not a message, left out", s->info.user, s->info.id,
                             (unsigned long long)w->line);
        if (!err && kind == FSB_SESSION_MESSAGE_LINE_ && list)
            err = fsb_session_gather_(list, range, &m);
    }
    if (err == -ENOTSUP)
        return fsb_session_fail_(s->store, err, "%s/%s: written by a newer version", s->info.user,
                                 s->info.id);
    return err;
}

/* A file that does not end with a line feed was cut short. A line feed of our own ends the torn
   line: unlike cutting it off, that harms nobody who is just writing. */
static int fsb_session_end_torn_(fsb_session *s, fsb_session_buf_ *text)
{
    if (!text->size || text->data[text->size - 1] == '\n') return 0;
    fsb_session_beat_(s);
    const int ended = !s->store->desc.read_only && write(s->fd, "\n", 1) == 1;
    fsb_session_beat_(s);
    if (!ended) return 0;
    fsb_session_log_(s->store, FSB_LOG_WARN, "session/torn",
                     "%s/%s.jsonl: the last line was cut short; ended it", s->info.user,
                     s->info.id);
    text->size = 0;
    return fsb_session_slurp_(s->fd, 0, text);
}

/* Is s->fd still the file of that name? */
static int fsb_session_is_current_(const fsb_session *s)
{
    char        path[FSB_SESSION_PATH_];
    struct stat st;
    fsb_session_path_of_(s, ".jsonl", path);
    return fstatat(s->store->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == s->ino;
}

static int fsb_session_open_hot_file_(fsb_session *s)
{
    char        path[FSB_SESSION_PATH_];
    struct stat st;
    fsb_session_path_of_(s, ".jsonl", path);
    fsb_session_files_release_(s);
    if (!s->store->desc.read_only)
        s->fd = openat(s->store->fd, path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0 && (s->store->desc.read_only || errno == EACCES || errno == EROFS))
        s->fd = openat(s->store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0) return -errno;
    if (fstat(s->fd, &st)) return -errno;
    s->ino = st.st_ino;
    return S_ISREG(st.st_mode) ? 0 : -EBADMSG;
}

/* Reads the session, cold or not, from its file as it is now. */
static int fsb_session_read_file_(fsb_session *s, const fsb_session_range *range,
                                  fsb_session_block *block, fsb_session_buf_ *list)
{
    const fsb_allocator *mem = &s->store->desc.allocator;
    fsb_session_block   *own = block ? NULL : fsb_session_block_new_(mem);
    fsb_session_buf_     text = fsb_session_buffer_(mem);
    fsb_session_walk_    w;
    int                  err = own || block ? 0 : -ENOMEM, cold = 0, tries = 0;
    memset(&w, 0, sizeof w);
    while (!err) {
        cold = 0, text.size = 0;
        if (list) list->size = 0;
        if (s->fd < 0 || !fsb_session_is_current_(s)) err = fsb_session_open_hot_file_(s);
        if (err == -ENOENT) {
            cold = 1;
            err = fsb_session_read_cold_(s->store, s->info.user, s->info.id, &text);
            if (err == -ENOENT && ++tries < 3) { /* just thawed? */
                err = 0;
                continue;
            }
        } else if (!err && !(err = fsb_session_slurp_(s->fd, 0, &text)))
            err = fsb_session_end_torn_(s, &text);
        if (!err) err = fsb_session_walk_text_(s, &text, range, own ? own : block, list, &w);
        if (err || cold || !w.sealed) break;
        /* A seal: who set it may be about to replace this file. Wait until that is done. */
        err = fsb_session_flock_(s->fd, LOCK_EX);
        const int current = fsb_session_is_current_(s);
        flock(s->fd, LOCK_UN);
        if (err || current) break;
    }
    if (!err) err = fsb_session_take_walk_(s, &w);
    if (!err) {
        s->size = text.size, s->info.cold = (uint32_t)cold, s->doubt = 0;
        s->torn = !cold && text.size && text.data[text.size - 1] != '\n';
    }
    if (!err) s->checked_ns = fsb_session_now_();
    fsb_session_unbuffer_(&text);
    fsb_session_block_free_(own);
    return err;
}

static int fsb_session_files_open_(fsb_session *s)
{
    struct stat st;
    if (s->fd >= 0 && !s->doubt && fsb_session_is_current_(s) && fstat(s->fd, &st) == 0 &&
        (uint64_t)st.st_size == s->size)
        return 0; /* as we know it */
    return fsb_session_read_file_(s, NULL, NULL, NULL);
}

static int fsb_session_files_load_(fsb_session *s, const fsb_session_range *range,
                                   fsb_session_block *block, fsb_session_messages *out)
{
    fsb_session_buf_ list = fsb_session_buffer_(&s->store->desc.allocator);
    const int        err = fsb_session_read_file_(s, range, block, &list);
    if (err) return fsb_session_unbuffer_(&list), err;
    out->bad_lines = s->bad_lines, out->first_bad_line = s->first_bad_line;
    return fsb_session_gathered_(&list, range, block, out);
}

/* Replaces the session's file by one with this text (in s->line), if nobody changed it since: else
   -ESTALE, and the session is as somebody else left it. */
static int fsb_session_replace_file_(fsb_session *s)
{
    char        path[FSB_SESSION_PATH_];
    struct stat st;
    int         fd = -1, err = fsb_session_flock_(s->fd, LOCK_EX);
    if (err) return err;
    fsb_session_path_of_(s, ".jsonl", path);
    if (!fsb_session_is_current_(s) || fstat(s->fd, &st) || (uint64_t)st.st_size != s->size)
        err = -ESTALE;
    if (!err) err = fsb_session_write_all_(s->fd, fsb_session_seal_, sizeof fsb_session_seal_ - 1);
    fsb_session_beat_(s);
    if (!err &&
        (fstat(s->fd, &st) || (uint64_t)st.st_size != s->size + sizeof fsb_session_seal_ - 1))
        err = -ESTALE; /* an append came between; the seal means nothing now */
    const fsb_session_span text = {s->line.data, s->line.size};
    if (!err) err = fsb_session_place_file_(s->store, path, text, 0, &fd);
    flock(s->fd, LOCK_UN);
    if (err == -EBADF) err = -EROFS;
    if (err) {
        s->doubt = 1;
        return err;
    }
    s->mtime_ns = 0; /* the old file needs no flush */
    fsb_session_files_release_(s);
    s->fd = fd, s->size = text.size, s->torn = 0, s->bad_lines = 0;
    if (fstat(fd, &st) == 0) s->ino = st.st_ino;
    return fsb_session_sync_folder_(s->store, s->info.user);
}

/* Builds the text of a session with these messages in s->line, and counts them into s->info.
   Messages get the ids and times that they are stored with. */
static int fsb_session_compose_(fsb_session *s, const fsb_session_message *messages, size_t count)
{
    fsb_session_info info = s->info;
    const int64_t    now = fsb_session_now_();
    info.message_count = info.last_id = info.bytes = 0;
    for (size_t i = 0; i < count; ++i)
        if (messages[i].time_ns > info.updated_ns) info.updated_ns = messages[i].time_ns;
    s->info.updated_ns = info.updated_ns;
    s->line.size = 0;
    fsb_session_put_head_(&s->line, s);
    for (size_t i = 0; i < count; ++i) {
        fsb_session_message m = messages[i];
        if (!m.time_ns) m.time_ns = now;
        fsb_session_settle_(&info, &m);
        fsb_session_put_message_(&s->line, &m);
        fsb_session_put_(&s->line, "\n", 1);
    }
    if (s->line.err) return fsb_session_unbuffer_(&s->line), -ENOMEM;
    info.cold = 0;
    s->info = info;
    return 0;
}

static void fsb_session_trim_(fsb_session *s)
{
    if (s->line.cap > FSB_SESSION_LINE_KEEP_) fsb_session_unbuffer_(&s->line);
}

/* Brings a cold session back as a plain file. */
static int fsb_session_thaw_(fsb_session *s)
{
    char             path[FSB_SESSION_PATH_];
    fsb_session_buf_ text = fsb_session_buffer_(&s->store->desc.allocator);
    int err = fsb_session_read_cold_(s->store, s->info.user, s->info.id, &text);
    const fsb_session_span span = {text.data, text.size};
    fsb_session_path_of_(s, ".jsonl", path);
    if (!err) err = fsb_session_place_file_(s->store, path, span, 1, NULL);
    fsb_session_unbuffer_(&text);
    if (err && err != -EEXIST && err != -ENOENT) return err; /* else another process was faster */
    if (!err && (err = fsb_session_sync_names_(s->store, s->info.user)) != 0) return err;
    if (!err) {
        fsb_session_path_of_(s, ".jsonl.zst", path);
        unlinkat(s->store->fd, path, 0);
    }
    return fsb_session_read_file_(s, NULL, NULL, NULL);
}

/* What a write to an existing session begins with. */
static int fsb_session_ready_(fsb_session *s)
{
    if (s->store->desc.read_only) return -EROFS;
    if (s->info.cold) return fsb_session_thaw_(s);
    return s->doubt || s->fd < 0 ? fsb_session_read_file_(s, NULL, NULL, NULL) : 0;
}

static int fsb_session_files_describe_(fsb_session *s);

/* Opens the parent that s shares messages with, marks it as forked, and loads what is shared if the
   caller has no messages at hand. */
static int fsb_session_meet_parent_(fsb_session *s, const fsb_session_message **messages,
                                    size_t *count, fsb_session_block **block)
{
    const fsb_session_range range = {0, s->branch.inherits, 0};
    fsb_session_messages    shared;
    fsb_session            *parent;
    if (!s->branch.inherits) return 0;
    int err = fsb_session_new_(&parent, s->store, s->info.user, s->info.parent);
    if (err) return err;
    err = fsb_session_read_file_(parent, NULL, NULL, NULL);
    if (!err) err = fsb_session_ready_(parent);
    if (!err && !parent->branch.forked)
        parent->branch.forked = 1, err = fsb_session_files_describe_(parent);
    if (!err && !*messages && !(*block = fsb_session_block_new_(&s->store->desc.allocator)))
        err = -ENOMEM;
    if (!err && *block && !(err = fsb_session_files_load_(parent, &range, *block, &shared)))
        *messages = shared.at, *count = shared.count;
    fsb_session_discard_(parent);
    return err;
}

static int fsb_session_files_create_(fsb_session *s, const fsb_session_message *messages,
                                     size_t count)
{
    fsb_session_block *block = NULL;
    char        path[FSB_SESSION_PATH_];
    struct stat st;
    fsb_session_path_of_(s, ".jsonl.zst", path);
    if (fstatat(s->store->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) return -EEXIST;
    if (mkdirat(s->store->fd, s->info.user, 0700) == 0 &&
        s->store->desc.durability == FSB_SESSION_SYNC_SAVE && fsync(s->store->fd))
        return -errno;
    fsb_session_path_of_(s, ".jsonl", path);
    int err = fsb_session_meet_parent_(s, &messages, &count, &block);
    if (!err) err = fsb_session_compose_(s, messages, count);
    fsb_session_block_free_(block);
    const fsb_session_span text = {s->line.data, s->line.size};
    if (!err) err = fsb_session_place_file_(s->store, path, text, 1, &s->fd);
    if (err) return err;
    if (fstat(s->fd, &st) == 0) s->ino = st.st_ino;
    s->size = text.size, s->checked_ns = fsb_session_now_();
    fsb_session_trim_(s);
    return fsb_session_sync_folder_(s->store, s->info.user);
}

static int fsb_session_files_replace_(fsb_session *s, const fsb_session_message *messages,
                                      size_t count)
{
    const fsb_session_info before = s->info;
    int err = fsb_session_ready_(s);
    ++s->branch.rewrites;
    if (!err) err = fsb_session_compose_(s, messages, count);
    if (!err) err = fsb_session_replace_file_(s);
    if (err == -ESTALE || err == -ENOMEM) s->info = before, s->doubt = 1;
    fsb_session_trim_(s);
    return err;
}

static int fsb_session_emancipate_(fsb_session *s, uint64_t keep_id);

static int fsb_session_files_rebase_(fsb_session *s, const fsb_session_message *messages,
                                     size_t count)
{
    fsb_session_block *block = NULL;
    int                err = fsb_session_emancipate_(s, 0);
    if (!err) err = fsb_session_meet_parent_(s, &messages, &count, &block);
    return err ? err : fsb_session_files_replace_(s, messages, count);
}

/* Takes in the lines that were added since, if that is all that happened: text is the file from the
   byte before s->size on. Returns 1 if so, 0 if the whole file has to be read, or -ENOMEM. */
static int fsb_session_take_tail_(fsb_session *s, const fsb_session_buf_ *text)
{
    fsb_session_block     *block = fsb_session_block_new_(&s->store->desc.allocator);
    fsb_session_line_kind_ kind = FSB_SESSION_BAD_LINE_;
    fsb_session_message    m;
    fsb_session_walk_      w;
    int                    err = block ? 0 : -ENOMEM;
    fsb_session_walk_begin_(&w, s->info.user, s->info.id, text->size);
    w.info = s->info, w.branch = s->branch, w.at = 1;
    w.bad_lines = s->bad_lines, w.first_bad_line = s->first_bad_line;
    while (!err && kind != FSB_SESSION_BLANK_LINE_)
        err = fsb_session_step_(&w, block, text->data, &m, &kind);
    const int simple = !err && !w.sealed && w.bad_lines == s->bad_lines;
    if (simple) err = fsb_session_take_walk_(s, &w);
    if (simple && !err) s->size += w.at - 1, s->torn = 0;
    fsb_session_block_free_(block);
    return err ? err : simple;
}

/* Our bytes landed at position `at` of s->fd, not where we expected. Learns what else is there.
   1: they count; 0: they must be written again; or an errno. */
static int fsb_session_landed_(fsb_session *s, uint64_t at, size_t size)
{
    const size_t     seal = sizeof fsb_session_seal_ - 1;
    fsb_session_buf_ text = fsb_session_buffer_(&s->store->desc.allocator);
    int              err = fsb_session_flock_(s->fd, LOCK_EX), counts = 0;
    if (err) return err; /* a rewrite, if there is one, is over now */
    const int current = fsb_session_is_current_(s);
    flock(s->fd, LOCK_UN);
    const uint64_t from = s->size ? s->size - 1 : 0;
    err = fsb_session_slurp_(s->fd, from, &text);
    if (!err && at >= from && at - from + size <= text.size) {
        const size_t mine = (size_t)(at - from);
        counts = mine > 0 && text.data[mine - 1] == '\n'; /* else glued to a torn line */
        if (!current) /* a seal behind us: who replaced the file took our bytes along */
            counts = counts && memmem(text.data + mine + size, text.size - mine - size,
                                      fsb_session_seal_, seal) != NULL;
    }
    int done = 0;
    if (!err && current && counts && s->size && text.data[0] == '\n')
        done = fsb_session_take_tail_(s, &text);
    fsb_session_unbuffer_(&text);
    if (done < 0) err = done;
    if (!err && !done) err = fsb_session_read_file_(s, NULL, NULL, NULL);
    return err ? err : counts;
}

/* A disk that is full, or a quota, would cut a write in two, and leave the first messages of many:
   it is asked before, where the write needs another block. What lacks the call has the risk. */
static int fsb_session_make_room_(const fsb_session *s, size_t size)
{
    const uint64_t end = s->size + size, block = 4096;
    if (end / block == s->size / block) return 0;
    while (fallocate(s->fd, FALLOC_FL_KEEP_SIZE, (off_t)s->size, (off_t)size))
        if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) return -errno;
        else if (errno != EINTR) break;
    return 0;
}

/* Adds messages at the end. */
static int fsb_session_files_append_(fsb_session *s, const fsb_session_message *messages,
                                     size_t count, void *batch)
{
    const int64_t now = fsb_session_now_();
    const int     look = now - s->checked_ns > 1000000000;
    int           err = 0, landed = 0;
    while (!landed) {
        if (look) { /* somebody may have replaced it without a seal, or appended without a pulse */
            s->checked_ns = now;
            if (!fsb_session_is_current_(s) && (err = fsb_session_read_file_(s, NULL, NULL, NULL)))
                return err;
        }
        fsb_session_info info = s->info;
        s->line.size = 0;
        if (s->torn) fsb_session_put_(&s->line, "\n", 1);
        for (size_t i = 0; i < count; ++i) {
            fsb_session_message m = messages[i];
            if (!m.time_ns) m.time_ns = now;
            fsb_session_settle_(&info, &m);
            fsb_session_put_message_(&s->line, &m);
            fsb_session_put_(&s->line, "\n", 1);
        }
        const size_t size = s->line.size;
        if (s->line.err) return fsb_session_unbuffer_(&s->line), -ENOMEM;
        if (count > 1 && (err = fsb_session_make_room_(s, size)) != 0) return err;
        const uint64_t before = fsb_session_beat_(s);
        err = fsb_session_write_all_(s->fd, s->line.data, size);
        const uint64_t after = fsb_session_beat_(s);
        const int      alone = s->pulse && !look && before == s->beat && after == before + 1;
        s->beat = after + 1;
        if (err) {
            s->torn = s->doubt = 1; /* how much of it is there, the next call finds out */
            return err == -EBADF ? -EROFS : err;
        }
        const off_t end = alone ? (off_t)(s->size + size) : lseek(s->fd, 0, SEEK_CUR);
        if (end == (off_t)(s->size + size)) {
            s->size += size, s->info = info, s->torn = 0, landed = 1;
        } else if (end < (off_t)size) return -EIO;
        else {
            landed = fsb_session_landed_(s, (uint64_t)end - size, size);
            if (landed < 0) return landed;
        }
    }
    s->mtime_ns = now;
    if (s->store->desc.durability == FSB_SESSION_SYNC_SAVE && !batch) {
        if (fdatasync(s->fd)) return s->doubt = 1, -errno;
        s->mtime_ns = 0;
    }
    fsb_session_trim_(s);
    return 0;
}

/* Loads all messages into a block of its own, for a change that rewrites the file. */
static int fsb_session_all_(fsb_session *s, fsb_session_block **block, fsb_session_messages *all)
{
    *block = fsb_session_block_new_(&s->store->desc.allocator);
    memset(all, 0, sizeof *all);
    const int err = *block ? s->store->kind->load(s, NULL, *block, all) : -ENOMEM;
    if (err) fsb_session_block_free_(*block);
    return err;
}

/* Forks that still share messages beyond keep_id with this session take them for their own, before
   it changes them: in their files they have them, so only the search index has to know. */
static int fsb_session_emancipate_(fsb_session *s, uint64_t keep_id)
{
    fsb_session_shelf_ *shelf;
    fsb_session_buf_    ids = fsb_session_buffer_(&s->store->desc.allocator);
    int err = s->branch.forked ? fsb_session_take_shelf_(s->store, s->info.user, &shelf) : 1;
    if (err) return err < 0 ? err : 0;
    for (size_t i = 0; i < fsb_session_book_count_(shelf); ++i) {
        const fsb_session_book_ *book = fsb_session_book_at_(shelf, i);
        if (book->live && book->branch.inherits > keep_id &&
            strcmp(book->info.parent, s->info.id) == 0)
            fsb_session_put_(&ids, book->info.id, strlen(book->info.id) + 1);
    }
    pthread_mutex_unlock(&shelf->lock);
    err = ids.err;
    for (size_t at = 0; !err && at < ids.size; at += strlen(ids.data + at) + 1) {
        fsb_session *child;
        if ((err = fsb_session_new_(&child, s->store, s->info.user, ids.data + at)) != 0) break;
        for (int tries = 0; tries < 100; ++tries) {
            fsb_session_block   *block;
            fsb_session_messages all;
            if ((err = fsb_session_files_open_(child)) ||
                (err = fsb_session_all_(child, &block, &all)))
                break;
            const uint64_t inherited = child->branch.inherits;
            child->branch.inherits = 0;
            err = inherited ? fsb_session_files_replace_(child, all.at, all.count) : 0;
            fsb_session_block_free_(block);
            if (err != -ESTALE) break;
        }
        if (err == -ENOENT) err = 0;
        fsb_session_discard_(child);
    }
    fsb_session_unbuffer_(&ids);
    return err;
}

static int fsb_session_files_write_(fsb_session *s, uint64_t keep_id,
                                    const fsb_session_message *messages, size_t count, size_t kept,
                                    void *batch)
{
    fsb_session_block   *block;
    fsb_session_messages all;
    int                  err = fsb_session_ready_(s);
    if (err) return err;
    if (keep_id >= s->info.last_id)
        return fsb_session_files_append_(s, messages + kept, count - kept, batch);
    if ((err = fsb_session_emancipate_(s, keep_id)) != 0) return err;
    if (kept || !keep_id) {
        if (s->branch.inherits > keep_id) s->branch.inherits = keep_id;
        return fsb_session_files_replace_(s, messages, count);
    }
    if ((err = fsb_session_all_(s, &block, &all)) != 0) return err;
    size_t keep = 0;
    while (keep < all.count && all.at[keep].id <= keep_id) ++keep;
    fsb_session_buf_ list = fsb_session_buffer_(&s->store->desc.allocator);
    fsb_session_put_(&list, all.at, keep * sizeof *all.at);
    fsb_session_put_(&list, messages, count * sizeof *messages);
    err = list.err;
    if (s->branch.inherits > keep_id) s->branch.inherits = keep_id;
    if (!err)
        err = fsb_session_files_replace_(s, (const fsb_session_message *)(void *)list.data,
                                         keep + count);
    fsb_session_unbuffer_(&list);
    fsb_session_block_free_(block);
    return err;
}

/* Rewrites the session without the messages first to last, and with `changed` in place of the one
   that has its id, if that is given. -ENOENT: there is none. */
static int fsb_session_files_rewrite_(fsb_session *s, const fsb_session_message *changed,
                                      uint64_t first, uint64_t last)
{
    int err = fsb_session_ready_(s);
    if (!err) err = fsb_session_emancipate_(s, first - 1);
    for (int tries = 0; !err && tries < 100; ++tries) {
        fsb_session_block   *block;
        fsb_session_messages all;
        fsb_session_buf_     list = fsb_session_buffer_(&s->store->desc.allocator);
        if ((err = fsb_session_all_(s, &block, &all)) != 0) break;
        size_t count = 0, hit = 0;
        for (size_t i = 0; i < all.count; ++i) {
            fsb_session_message m = all.at[i];
            if (m.id >= first && m.id <= last) {
                ++hit;
                if (!changed) continue;
                const int64_t time_ns = m.time_ns;
                m = *changed;
                if (!m.time_ns) m.time_ns = time_ns;
            }
            fsb_session_put_(&list, &m, sizeof m), ++count;
        }
        err = list.err ? list.err : changed && !hit ? -ENOENT : 0;
        if (s->branch.inherits >= first) s->branch.inherits = 0; /* no longer the parent's */
        if (!err && hit)
            err = fsb_session_files_replace_(s, (const fsb_session_message *)(void *)list.data,
                                             count);
        fsb_session_unbuffer_(&list);
        fsb_session_block_free_(block);
        if (err != -ESTALE) break;
        err = 0;
    }
    return err;
}

static int fsb_session_files_edit_(fsb_session *s, const fsb_session_message *message)
{
    return fsb_session_files_rewrite_(s, message, message->id, message->id);
}

static int fsb_session_files_erase_(fsb_session *s, uint64_t first, uint64_t last)
{
    return fsb_session_files_rewrite_(s, NULL, first ? first : 1, last);
}

/* A new session line at the end: later ones count. */
static int fsb_session_files_describe_(fsb_session *s)
{
    if (s->store->desc.read_only) return -EROFS;
    const fsb_session_info wanted = s->info;
    fsb_session_block     *names = s->names;
    int                    err = 0, landed = 0;
    while (!err && !landed) {
        s->line.size = 0;
        if (s->torn) fsb_session_put_(&s->line, "\n", 1);
        fsb_session_put_head_(&s->line, s);
        const size_t size = s->line.size;
        fsb_session_beat_(s);
        err = s->line.err ? -ENOMEM : fsb_session_write_all_(s->fd, s->line.data, size);
        s->beat = fsb_session_beat_(s); /* so that the next append looks where it lands */
        if (err) break;
        const off_t end = lseek(s->fd, 0, SEEK_CUR);
        if (end == (off_t)(s->size + size)) s->size += size, s->torn = 0, landed = 1;
        else {
            s->names = NULL; /* what is wanted must outlive reading the file again */
            s->info = wanted;
            err = fsb_session_adopt_(s, &wanted);
            landed = err ? err : fsb_session_landed_(s, (uint64_t)end - size, size);
            if (landed < 0) err = landed;
            else if (!landed) {
                fsb_session_info again = s->info;
                again.title = wanted.title, again.tags = wanted.tags;
                again.tag_count = wanted.tag_count;
                again.config = wanted.config, again.metadata = wanted.metadata;
                again.updated_ns = wanted.updated_ns;
                err = fsb_session_adopt_(s, &again);
            }
        }
    }
    if (s->names != names) fsb_session_block_free_(names);
    if (!err && s->store->desc.durability == FSB_SESSION_SYNC_SAVE && fdatasync(s->fd))
        err = -errno;
    s->mtime_ns = 1;
    if (err) s->doubt = s->torn = 1;
    return err == -EBADF ? -EROFS : err;
}

/* Seals the file and takes its name away: by removing it, or after `packed` has the other name. */
static int fsb_session_retire_(fsb_session *s, const fsb_session_buf_ *packed)
{
    char        path[FSB_SESSION_PATH_];
    struct stat st;
    int         err = fsb_session_flock_(s->fd, LOCK_EX);
    if (err) return err;
    if (!fsb_session_is_current_(s) || fstat(s->fd, &st) ||
        (packed && (uint64_t)st.st_size != s->size))
        err = -ESTALE;
    if (!err) err = fsb_session_write_all_(s->fd, fsb_session_seal_, sizeof fsb_session_seal_ - 1);
    fsb_session_beat_(s);
    if (!err && packed &&
        (fstat(s->fd, &st) || (uint64_t)st.st_size != s->size + sizeof fsb_session_seal_ - 1))
        err = -ESTALE;
    if (!err && packed) {
        const fsb_session_span span = {packed->data, packed->size};
        fsb_session_path_of_(s, ".jsonl.zst", path);
        err = fsb_session_place_file_(s->store, path, span, 0, NULL);
        if (!err) err = fsb_session_sync_names_(s->store, s->info.user);
    }
    fsb_session_path_of_(s, ".jsonl", path);
    if (!err && unlinkat(s->store->fd, path, 0)) err = -errno;
    flock(s->fd, LOCK_UN);
    s->mtime_ns = 0, s->doubt = 1;
    return err ? err : fsb_session_sync_folder_(s->store, s->info.user);
}

static int fsb_session_files_remove_(fsb_session *s)
{
    char path[FSB_SESSION_PATH_];
    if (s->store->desc.read_only) return -EROFS;
    int err = fsb_session_emancipate_(s, 0);
    fsb_session_path_of_(s, ".jsonl.zst", path);
    for (int tries = 0; !err && tries < 100; ++tries) {
        if ((err = fsb_session_files_open_(s)) != 0) break;
        /* the cold file first, which may be of a thaw that did not end: it must not come back */
        if (unlinkat(s->store->fd, path, 0) && errno != ENOENT) err = -errno;
        if (!err && !s->info.cold) err = fsb_session_retire_(s, NULL);
        if (err != -ESTALE) break;
        err = 0;
    }
    return err ? err : fsb_session_sync_folder_(s->store, s->info.user);
}

static int fsb_session_files_compress_(fsb_session *s)
{
    if (s->info.cold) return 0;
    fsb_session_buf_ text = fsb_session_buffer_(&s->store->desc.allocator), packed = text;
    int              err = fsb_session_ready_(s);
    if (!err) err = fsb_session_slurp_(s->fd, 0, &text);
    if (!err && text.size != s->size) err = -ESTALE;
    if (!err) err = fsb_session_pack_(&text, &packed);
    if (!err) err = fsb_session_retire_(s, &packed);
    fsb_session_unbuffer_(&text), fsb_session_unbuffer_(&packed);
    return err;
}

static int fsb_session_files_sync_(fsb_session_store *store)
{
    return store->desc.read_only || syncfs(store->fd) == 0 ? 0 : -errno;
}

static int fsb_session_files_begin_(fsb_session_store *store, void **batch)
{
    *batch = store; /* any value: saves leave the flush to the end */
    return 0;
}

static int fsb_session_files_end_(fsb_session_store *store, void *batch, int commit)
{
    (void)batch, (void)commit;
    return store->desc.durability == FSB_SESSION_SYNC_SAVE ? fsb_session_files_sync_(store) : 0;
}

static int fsb_session_files_users_(fsb_session_store *store, fsb_session_buf_ *names)
{
    const int      fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR           *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *d;
    struct stat    st;
    int            err = dir ? 0 : -errno;
    if (!dir && fd >= 0) close(fd);
    while (dir && !err) {
        errno = 0; /* which is all that tells an error from the end */
        if ((d = readdir(dir)) == NULL) err = -errno;
        if (!d) break;
        if (d->d_name[0] == '.') continue;
        if (fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW)) err = errno == ENOENT ? 0 : -errno;
        else if (S_ISDIR(st.st_mode)) fsb_session_put_(names, d->d_name, strlen(d->d_name) + 1);
    }
    if (dir) closedir(dir);
    return err ? err : names->err;
}

static int fsb_session_newer_(const void *a, const void *b)
{
    const fsb_session_info *x = (const fsb_session_info *)a, *y = (const fsb_session_info *)b;
    if (x->updated_ns != y->updated_ns) return x->updated_ns < y->updated_ns ? 1 : -1;
    return strcmp(y->id, x->id);
}

static int fsb_session_passes_(const fsb_session_info *info, const fsb_session_filter *f)
{
    size_t i = 0;
    if (f->since_ns && info->updated_ns < f->since_ns) return 0;
    if (f->until_ns && info->updated_ns > f->until_ns) return 0;
    if (f->parent && strcmp(info->parent, f->parent) != 0) return 0;
    while (f->tag && i < info->tag_count && strcmp(info->tags[i], f->tag) != 0) ++i;
    return !f->tag || i < info->tag_count;
}

/* A cursor is the last session of a page: its time, and its id. */
static int fsb_session_read_cursor_(const char *cursor, int64_t *time_ns, const char **id)
{
    char *end;
    *time_ns = strtoll(cursor, &end, 16);
    *id = end + 1;
    return end > cursor && *end == ':' ? 0 : -EINVAL;
}

static int fsb_session_files_list_(fsb_session_store *store, const char *user,
                                   const fsb_session_filter *f, fsb_session_block *block,
                                   fsb_session_buf_ *infos)
{
    fsb_session_shelf_ *shelf;
    fsb_session_info    from;
    memset(&from, 0, sizeof from);
    if (f->cursor && fsb_session_read_cursor_(f->cursor, &from.updated_ns, &from.id))
        return -EINVAL;
    int err = fsb_session_take_shelf_(store, user, &shelf);
    if (err) return err;
    for (size_t i = 0; i < fsb_session_book_count_(shelf); ++i) {
        const fsb_session_book_ *book = fsb_session_book_at_(shelf, i);
        if (book->live && fsb_session_passes_(&book->info, f) &&
            (!f->cursor || fsb_session_newer_(&book->info, &from) > 0))
            fsb_session_put_(infos, &book->info, sizeof book->info);
    }
    size_t            count = infos->size / sizeof from;
    fsb_session_info *at = (fsb_session_info *)(void *)infos->data;
    if (count) qsort(at, count, sizeof *at, fsb_session_newer_);
    if (count > f->limit) count = f->limit, infos->size = count * sizeof *at;
    for (size_t i = 0; !err && i < count; ++i) err = fsb_session_copy_info_(block, &at[i], &at[i]);
    pthread_mutex_unlock(&shelf->lock);
    return err ? err : infos->err;
}

typedef struct fsb_session_hunt_ {
    fsb_session_shelf_       *shelf;
    const fsb_session_query  *query;
    const fsb_session_match_ *match;
    fsb_session_finds_       *finds;
} fsb_session_hunt_;

/* Looks at the records in these bytes of the log; returns how many bytes were whole records. */
static size_t fsb_session_hunt_in_(const fsb_session_hunt_ *h, const char *p, size_t size,
                                   uint64_t at, int *err)
{
    const fsb_session_query *q = h->query;
    fsb_session_record_      r;
    fsb_session_found_       found;
    size_t                   done = 0;
    for (; fsb_session_get_record_(p + done, size - done, &r); done += r.size) {
        if (r.kind != FSB_SESSION_MESSAGE_ || r.session >= fsb_session_book_count_(h->shelf))
            continue;
        const fsb_session_book_ *book = fsb_session_book_at_(h->shelf, r.session);
        const char              *role = p + done + sizeof r, *text = role + r.role_size;
        if (!book->live || book->generation != r.generation) continue;
        if (!r.id) r.time_ns = book->info.created_ns;
        if (!r.id && (book->title_at != at + done || q->role)) continue;
        if (q->since_ns && r.time_ns < q->since_ns) continue;
        if (q->until_ns && r.time_ns > q->until_ns) continue;
        if (q->role && (strlen(q->role) != r.role_size || memcmp(role, q->role, r.role_size) != 0))
            continue;
        if (!fsb_session_matches_(h->match, text, r.size - sizeof r - r.role_size, found.counts))
            continue;
        found.time_ns = r.time_ns, found.message_id = r.id, found.words = r.words, found.score = 0;
        found.where = r.session, found.offset = r.offset, found.role = NULL;
        if ((*err = fsb_session_keep_(h->finds, &found)) != 0) break;
    }
    return done;
}

static int fsb_session_hunt_log_(const fsb_session_hunt_ *h)
{
    const size_t     step = 1 << 20;
    fsb_session_buf_ b = fsb_session_buffer_(h->finds->mem);
    uint64_t         at = sizeof fsb_session_log_magic_;
    int              err = 0;
    while (!err && h->shelf->fd >= 0 && at + b.size < h->shelf->end) {
        if ((err = fsb_session_reserve_(&b, step))) break;
        const uint64_t left = h->shelf->end - at - b.size;
        const size_t   room = b.cap - b.size;
        const ssize_t  n = pread(h->shelf->fd, b.data + b.size, left < room ? (size_t)left : room,
                                 (off_t)(at + b.size));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) err = -errno;
        if (n <= 0) break;
        b.size += (size_t)n;
        const size_t done = fsb_session_hunt_in_(h, b.data, b.size, at, &err);
        memmove(b.data, b.data + done, b.size - done);
        at += done, b.size -= done;
    }
    fsb_session_unbuffer_(&b);
    if (!err && h->shelf->fresh.size)
        fsb_session_hunt_in_(h, h->shelf->fresh.data, h->shelf->fresh.size, h->shelf->end, &err);
    return err;
}

/* The text that a hit's snippet is made from: the message's line, or the title with the tags. */
static int fsb_session_files_text_(fsb_session_shelf_ *shelf, const fsb_session_book_ *book,
                                   const fsb_session_found_ *found, fsb_session_block *block,
                                   fsb_session_buf_ *text, fsb_session_message *m)
{
    char path[FSB_SESSION_PATH_];
    int  err = 0;
    memset(m, 0, sizeof *m);
    m->role = "";
    text->size = 0;
    if (!found->message_id) {
        fsb_session_put_title_(text, &book->info);
        m->content.data = text->data, m->content.size = text->size;
        return text->err;
    }
    if (book->info.cold) {
        err = fsb_session_read_cold_(shelf->store, shelf->user, book->info.id, text);
        if (!err && found->offset >= text->size) err = -ENOENT; /* it is another file now */
        if (err) return err;
        text->size -= (size_t)found->offset;
        memmove(text->data, text->data + found->offset, text->size);
    } else {
        fsb_session_path_(path, sizeof path, shelf->user, book->info.id, ".jsonl");
        const int fd = openat(shelf->store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) return -errno;
        ssize_t n = 1;
        while (n > 0 && !err && !(text->size && memchr(text->data, '\n', text->size))) {
            if ((err = fsb_session_reserve_(text, text->size ? text->size : 4096)) != 0) break;
            n = pread(fd, text->data + text->size, text->cap - text->size,
                      (off_t)(found->offset + text->size));
            if (n > 0) text->size += (size_t)n;
            else if (n < 0 && errno == EINTR) n = 1;
            else if (n < 0) err = -errno;
        }
        close(fd);
    }
    const char *feed = text->size ? (const char *)memchr(text->data, '\n', text->size) : NULL;
    if (err || !feed) return err ? err : -ENOENT;
    const fsb_session_span line = {text->data, (size_t)(feed - text->data)};
    if (fsb_session_line_kind_of_(line) != FSB_SESSION_MESSAGE_LINE_) return -ENOENT;
    return fsb_session_read_message_(block, line, m);
}

static int fsb_session_put_hit_(fsb_session_hit *hit, const fsb_session_query *q,
                                const fsb_session_match_ *match, const fsb_session_found_ *found,
                                const fsb_session_info *info, const char *role,
                                fsb_session_span text, fsb_session_block *block)
{
    fsb_session_buf_ snippet = fsb_session_buffer_(&block->mem);
    const int        err = fsb_session_snippet_(&snippet, match, q, text);
    hit->message_id = found->message_id, hit->time_ns = found->time_ns, hit->score = found->score;
    hit->id = fsb_session_block_copy_(block, info->id, strlen(info->id));
    hit->title = fsb_session_block_copy_(block, info->title, strlen(info->title));
    hit->role = fsb_session_block_copy_(block, role, strlen(role));
    hit->snippet.data = fsb_session_block_copy_(block, snippet.data, snippet.size);
    hit->snippet.size = snippet.size;
    fsb_session_unbuffer_(&snippet);
    return err ? err : hit->id && hit->title && hit->role && hit->snippet.data ? 0 : -ENOMEM;
}

static int fsb_session_files_search_(fsb_session_store *store, const char *user,
                                     const fsb_session_query *q, const fsb_session_match_ *match,
                                     fsb_session_block *block, fsb_session_hits *out)
{
    const fsb_allocator *mem = &store->desc.allocator;
    fsb_session_finds_   finds = {mem, NULL, 0, 0, 0};
    fsb_session_shelf_  *shelf;
    finds.cap = q->order == FSB_SESSION_BEST ? (size_t)FSB_SESSION_RANKED
                                             : (size_t)q->skip + q->limit;
    int err = fsb_session_take_shelf_(store, user, &shelf);
    if (err) return err;
    const fsb_session_hunt_ hunt = {shelf, q, match, &finds};
    err = fsb_session_hunt_log_(&hunt);
    fsb_session_order_(match, &finds, q->order);
    fsb_session_buf_   text = fsb_session_buffer_(mem);
    fsb_session_block *scratch = fsb_session_block_new_(mem);
    fsb_session_hit   *hits = (fsb_session_hit *)fsb_session_block_take_(
        block, (finds.count < q->limit ? finds.count : q->limit) * sizeof *hits + 1);
    if (!hits || !scratch) err = -ENOMEM;
    out->at = hits, out->count = 0;
    for (size_t i = q->skip; !err && i < finds.count && out->count < q->limit; ++i) {
        const fsb_session_book_ *book = fsb_session_book_at_(shelf, (size_t)finds.at[i].where);
        fsb_session_message      m;
        err = fsb_session_files_text_(shelf, book, &finds.at[i], scratch, &text, &m);
        if (err == -ENOENT || err == -EBADMSG) { /* changed since: not a hit any more */
            err = 0;
            continue;
        }
        if (!err)
            err = fsb_session_put_hit_(&hits[out->count++], q, match, &finds.at[i], &book->info,
                                       m.role, m.content, block);
    }
    pthread_mutex_unlock(&shelf->lock);
    fsb_session_block_free_(scratch);
    fsb_session_unbuffer_(&text);
    fsb_session_drop_(mem, finds.at, finds.room * sizeof *finds.at);
    return err;
}

static int fsb_session_blob_path_(char *path, const char *user, const char *hash)
{
    return snprintf(path, FSB_SESSION_PATH_, "%s/.blobs/%s", user, hash) < FSB_SESSION_PATH_
               ? 0 : -ENAMETOOLONG;
}

/* Is this what the file holds? A look at all of it costs less than its hash did, and one that was
   damaged is not kept for ever. */
static int fsb_session_blob_is_(fsb_session_store *store, const char *path, fsb_session_span data)
{
    char        part[16384];
    struct stat st;
    const int   fd = openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int         is = fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == data.size;
    for (size_t at = 0; is && at < data.size;) {
        const ssize_t n = pread(fd, part, sizeof part, (off_t)at);
        is = n > 0 && (size_t)n <= data.size - at && memcmp(part, data.data + at, (size_t)n) == 0;
        if (is) at += (size_t)n;
    }
    if (fd >= 0) close(fd);
    return is;
}

static int fsb_session_files_put_blob_(fsb_session_store *store, const char *user, const char *hash,
                                       fsb_session_span data)
{
    char folder[FSB_SESSION_PATH_], path[FSB_SESSION_PATH_];
    int  err = 0;
    if (store->desc.read_only) return -EROFS;
    if (mkdirat(store->fd, user, 0700) == 0) err = fsb_session_sync_folder_(store, ".");
    else if (errno != EEXIST) err = -errno;
    fsb_session_blob_path_(folder, user, ""), fsb_session_blob_path_(path, user, hash);
    if (!err && mkdirat(store->fd, folder, 0700) == 0) err = fsb_session_sync_folder_(store, user);
    else if (!err && errno != EEXIST) err = -errno;
    if (err) return err;
    const int lock = openat(store->fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (lock < 0) return -errno;
    if (!(err = fsb_session_flock_(lock, LOCK_SH)) /* a sweep looks and drops without us between */
        && !(fsb_session_blob_is_(store, path, data) && utimensat(store->fd, path, NULL, 0) == 0)
        && !(err = fsb_session_place_file_(store, path, data, 0, NULL)))
        err = fsb_session_sync_folder_(store, folder);
    close(lock);
    return err;
}

static int fsb_session_files_get_blob_(fsb_session_store *store, const char *user, const char *hash,
                                       fsb_session_block *block, fsb_session_span *out)
{
    char             path[FSB_SESSION_PATH_];
    fsb_session_buf_ b = fsb_session_buffer_(&store->desc.allocator);
    fsb_session_blob_path_(path, user, hash);
    const int fd = openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -errno;
    int err = fsb_session_slurp_(fd, 0, &b);
    close(fd);
    if (!err && !(out->data = fsb_session_block_copy_(block, b.data, b.size))) err = -ENOMEM;
    out->size = b.size;
    fsb_session_unbuffer_(&b);
    return err;
}

static int fsb_session_by_hash_(const void *a, const void *b)
{
    return memcmp(a, b, 64);
}

static int fsb_session_files_drop_blobs_(fsb_session_store *store, const char *user,
                                         const fsb_session_buf_ *keep, int64_t now_ns,
                                         uint64_t *dropped)
{
    char           path[FSB_SESSION_PATH_];
    struct dirent *d;
    fsb_session_shelf_ *shelf;
    const int           err = fsb_session_take_shelf_(store, user, &shelf);
    if (err) return err;
    const int unread = shelf->unread;
    pthread_mutex_unlock(&shelf->lock);
    if (unread) { /* who knows what these name */
        fsb_session_log_(store, FSB_LOG_WARN, "session/blobs-kept",
                         "%s: %d sessions cannot be read: no attachment is dropped", user, unread);
        return 0;
    }
    fsb_session_blob_path_(path, user, "");
    const int fd = openat(store->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR      *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir && fd >= 0) close(fd);
    if (!dir) return 0;
    while ((d = readdir(dir)) != NULL) {
        struct stat st;
        const int   used = keep->size && strlen(d->d_name) == 64 &&
                         bsearch(d->d_name, keep->data, keep->size / 64, 64, fsb_session_by_hash_);
        if (strlen(d->d_name) != 64 || used || fsb_session_flock_(fd, LOCK_EX)) continue;
        if (fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            st.st_mtim.tv_sec < now_ns / 1000000000 - 3600 && unlinkat(fd, d->d_name, 0) == 0)
            ++*dropped;
        flock(fd, LOCK_UN);
    }
    closedir(dir);
    return 0;
}

/* Puts the bad lines of a session aside, and rewrites it without them. */
static int fsb_session_repair_file_(fsb_session *s, fsb_session_repair_result *out)
{
    char                 path[FSB_SESSION_PATH_];
    fsb_session_block   *block;
    fsb_session_messages all;
    fsb_session_buf_     text = fsb_session_buffer_(&s->store->desc.allocator);
    int                  err = fsb_session_all_(s, &block, &all);
    if (err) return err;
    out->messages += all.count, out->bad_lines += all.bad_lines;
    if (all.bad_lines && !s->info.cold && !s->store->desc.read_only &&
        !(err = fsb_session_slurp_(s->fd, 0, &text))) {
        fsb_session_path_of_(s, ".jsonl.bad", path);
        const int fd = openat(s->store->fd, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0) err = -errno;
        for (size_t at = 0; !err && at < text.size;) {
            const char *feed = (const char *)memchr(text.data + at, '\n', text.size - at);
            const size_t           size = (feed ? (size_t)(feed - text.data) : text.size) - at;
            const fsb_session_span line = {text.data + at, size};
            if (fsb_session_line_kind_of_(line) == FSB_SESSION_BAD_LINE_)
                err = fsb_session_write_all_(fd, line.data, size + (feed ? 1 : 0));
            at += size + 1;
        }
        if (fd >= 0) close(fd);
        if (!err) err = fsb_session_files_replace_(s, all.at, all.count);
    }
    fsb_session_unbuffer_(&text);
    fsb_session_block_free_(block);
    return err;
}

static int fsb_session_files_repair_(fsb_session_store *store, const char *user,
                                     fsb_session_repair_result *out)
{
    char                path[FSB_SESSION_PATH_];
    fsb_session_shelf_ *shelf;
    fsb_session_buf_    ids = fsb_session_buffer_(&store->desc.allocator);
    if (store->desc.read_only) return -EROFS;
    fsb_session_log_path_(path, sizeof path, store, user, "");
    unlinkat(store->fd, path, 0);
    int err = fsb_session_take_shelf_(store, user, &shelf);
    if (err) return err;
    for (size_t i = 0; i < fsb_session_book_count_(shelf); ++i)
        if (fsb_session_book_at_(shelf, i)->seen)
            fsb_session_puts_(&ids, fsb_session_book_at_(shelf, i)->info.id),
                fsb_session_put_(&ids, "", 1);
    pthread_mutex_unlock(&shelf->lock);
    err = ids.err;
    for (size_t at = 0; !err && at < ids.size; at += strlen(ids.data + at) + 1) {
        fsb_session *s;
        if ((err = fsb_session_new_(&s, store, user, ids.data + at)) != 0) break;
        const int bad = fsb_session_files_open_(s);
        const int worse = bad ? bad : fsb_session_repair_file_(s, out);
        ++out->sessions;
        if (worse == -ENOMEM || worse == -ENOSPC || worse == -EROFS) err = worse;
        else if (worse) {
            ++out->lost_sessions;
            fsb_session_log_(store, FSB_LOG_ERROR, "session/lost", "%s/%s cannot be read: error %d",
                             user, ids.data + at, -worse);
        }
        fsb_session_discard_(s);
    }
    fsb_session_unbuffer_(&ids);
    return err;
}

static void fsb_session_files_close_(fsb_session_store *store)
{
    while (store->shelves) {
        fsb_session_shelf_ *next = store->shelves->next;
        fsb_session_shelf_close_(store->shelves);
        store->shelves = next;
    }
    if (store->pulse) munmap(store->pulse, FSB_SESSION_PULSES_ * sizeof *store->pulse);
    if (store->fd >= 0) close(store->fd);
}

/* Without the counters appends are a little slower, that is all. */
static void fsb_session_open_pulse_(fsb_session_store *store)
{
    const size_t size = FSB_SESSION_PULSES_ * sizeof *store->pulse;
    struct stat  st;
    const int    fd = openat(store->fd, ".pulse", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        (st.st_size == (off_t)size ||
         (st.st_size == 0 && posix_fallocate(fd, 0, (off_t)size) == 0))) {
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) store->pulse = (uint64_t *)map;
    }
    close(fd);
}

static const fsb_session_kind_ fsb_session_files_ = {
    fsb_session_files_close_, fsb_session_files_sync_, fsb_session_files_users_,
    fsb_session_files_list_, fsb_session_files_search_, fsb_session_files_repair_,
    fsb_session_files_put_blob_, fsb_session_files_get_blob_, fsb_session_files_drop_blobs_,
    fsb_session_files_begin_, fsb_session_files_end_, fsb_session_files_open_, fsb_session_ready_,
    fsb_session_files_release_, fsb_session_files_create_, fsb_session_files_rebase_,
    fsb_session_files_write_, fsb_session_files_edit_, fsb_session_files_erase_,
    fsb_session_files_describe_, fsb_session_files_load_, fsb_session_files_remove_,
    fsb_session_files_compress_};

static int fsb_session_files_start_(fsb_session_store *store)
{
    const char *path = store->desc.path;
    if (!store->desc.read_only && mkdir(path, 0700) && errno != EEXIST)
        return fsb_session_fail_(store, -errno, "%s: the folder cannot be made", path);
    store->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->fd < 0)
        return fsb_session_fail_(store, -errno, "%s: the folder cannot be opened", path);
    store->kind = &fsb_session_files_;
    if (!store->desc.read_only) fsb_session_open_pulse_(store);
    return 0;
}

/* ---- [sqlite] -------------------------------------------------------------------------------- */
#ifdef FSB_WITH_SQLITE
/* The store in one database. A message's key is its session's number and its id, so that a session
   lies together and needs no index. words is an FTS5 index without content of its own: its rows are
   numbered by the time of what they index (doc says which message that is), so newest first is the
   order it reads in; every word begins with the user's number, so nobody meets the words of others.
   It is fed in batches: session.indexed is the last message that is in it (-1: not the title yet),
   dirty has the sessions that wait. A fork has no messages up to `upto`: those are base's. What is
   empty is NULL: SQLite allocates for each text of a row that it changes, even for none. */
static const char fsb_session_schema_[] =
    "CREATE TABLE user(no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
    "CREATE TABLE session(no INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL,"
    " id TEXT NOT NULL, title TEXT NOT NULL, tags TEXT, config TEXT,"
    " metadata TEXT, created INTEGER NOT NULL, updated INTEGER NOT NULL,"
    " parent TEXT, fork INTEGER NOT NULL, base INTEGER NOT NULL, upto INTEGER NOT NULL,"
    " count INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " revision INTEGER NOT NULL, indexed INTEGER NOT NULL, packed BLOB, UNIQUE(user, id));"
    "CREATE INDEX session_updated ON session(user, updated, id);"
    "CREATE INDEX session_base ON session(base) WHERE base > 0;"
    "CREATE TABLE message(key INTEGER PRIMARY KEY, time INTEGER NOT NULL, role TEXT NOT NULL,"
    " content TEXT NOT NULL, metadata TEXT NOT NULL, attachments TEXT NOT NULL);"
    "CREATE TABLE dirty(no INTEGER PRIMARY KEY);"
    "CREATE TABLE doc(docno INTEGER PRIMARY KEY, key INTEGER NOT NULL);"
    "CREATE TABLE blob(user INTEGER NOT NULL, hash TEXT NOT NULL, data BLOB NOT NULL,"
    " added INTEGER NOT NULL, PRIMARY KEY(user, hash));"
    "PRAGMA application_id=0x66736273; PRAGMA user_version=1;";
static const char fsb_session_schema_words_[] =
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', columnsize=0,"
    " tokenize='fsb_session');";

enum {
    FSB_SESSION_BEGIN_,
    FSB_SESSION_COMMIT_,
    FSB_SESSION_ROLLBACK_,
    FSB_SESSION_SELECT_,
    FSB_SESSION_SELECT_NO_,
    FSB_SESSION_TOUCH_,
    FSB_SESSION_INSERT_,
    FSB_SESSION_MARK_,
    FSB_SESSION_UPDATE_,
    FSB_SESSION_CREATE_,
    FSB_SESSION_ADD_USER_,
    FSB_SESSION_USER_NO_,
    FSB_SESSION_CHAIN_,
    FSB_SESSION_MESSAGES_,
    FSB_SESSION_NEWEST_ROWS_,
    FSB_SESSION_DELETE_ROWS_,
    FSB_SESSION_REPLACE_ROW_,
    FSB_SESSION_LIST_,
    FSB_SESSION_USERS_,
    FSB_SESSION_FORKS_,
    FSB_SESSION_DIRTY_,
    FSB_SESSION_CLEAN_,
    FSB_SESSION_SET_INDEXED_,
    FSB_SESSION_DOC_ADD_,
    FSB_SESSION_DOC_FREE_,
    FSB_SESSION_DOC_FIND_,
    FSB_SESSION_DOC_DROP_,
    FSB_SESSION_WORDS_ADD_,
    FSB_SESSION_WORDS_DROP_,
    FSB_SESSION_FIND_,
    FSB_SESSION_ONE_,
    FSB_SESSION_DIRTY_OF_,
    FSB_SESSION_DELETE_,
    FSB_SESSION_PACKED_,
    FSB_SESSION_PACK_,
    FSB_SESSION_READ_,
    FSB_SESSION_TITLE_OF_,
    FSB_SESSION_BLOB_PUT_,
    FSB_SESSION_BLOB_GET_,
    FSB_SESSION_BLOB_LIST_,
    FSB_SESSION_BLOB_DROP_,
    FSB_SESSION_STATEMENTS_
};
#define FSB_SESSION_COLUMNS_ "s.no, s.id, s.title, s.tags, s.config, s.metadata, s.created," \
    " s.updated, s.parent, s.fork, s.upto, s.count, s.last, s.bytes, s.revision, s.indexed," \
    " s.packed IS NOT NULL, s.user"
static const char *const fsb_session_sql_text_[FSB_SESSION_STATEMENTS_] = {
    "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK",
    "SELECT " FSB_SESSION_COLUMNS_ " FROM session s JOIN user u ON u.no=s.user"
        " WHERE u.name=?1 AND s.id=?2",
    "SELECT " FSB_SESSION_COLUMNS_ " FROM session s WHERE s.no=?1",
    "UPDATE session SET updated=?3, count=?4, last=?5, bytes=?6, revision=revision+1"
        " WHERE no=?1 AND revision=?2",
    "INSERT INTO message VALUES(?1,?2,?3,?4,?5,?6)",
    "INSERT OR IGNORE INTO dirty VALUES(?1)",
    "UPDATE session SET title=?2, tags=nullif(?3,''), config=nullif(?4,''),"
        " metadata=nullif(?5,''), updated=?6, parent=nullif(?7,''), fork=?8,"
        " base=?9, upto=?10, count=?11, last=?12, bytes=?13, indexed=?14, revision=revision+1"
        " WHERE no=?1",
    "INSERT INTO session(user, id, title, tags, config, metadata, created, updated, parent, fork,"
        " base, upto, count, last, bytes, revision, indexed)"
        " VALUES(?1,?2,'',NULL,NULL,NULL,?3,?3,NULL,0,0,0,0,0,0,0,-1)",
    "INSERT OR IGNORE INTO user(name) VALUES(?1)",
    "SELECT no FROM user WHERE name=?1",
    "SELECT base, upto, packed IS NOT NULL FROM session WHERE no=?1",
    "SELECT key, time, role, content, metadata, attachments FROM message"
        " WHERE key BETWEEN ?1 AND ?2 ORDER BY key",
    "SELECT key FROM message WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1 OFFSET ?3",
    "DELETE FROM message WHERE key BETWEEN ?1 AND ?2",
    "UPDATE message SET time=?2, role=?3, content=?4, metadata=?5, attachments=?6 WHERE key=?1",
    "SELECT " FSB_SESSION_COLUMNS_ " FROM session s WHERE s.user=?1 AND"
        " (s.updated, s.id) < (?2, ?3) ORDER BY s.updated DESC, s.id DESC",
    "SELECT name FROM user WHERE EXISTS (SELECT 1 FROM session WHERE user=user.no) ORDER BY name",
    "SELECT no, upto FROM session WHERE base=?1 AND base > 0 AND upto > ?2",
    "SELECT no FROM dirty LIMIT 1",
    "DELETE FROM dirty WHERE no=?1",
    "UPDATE session SET indexed=?2 WHERE no=?1",
    "INSERT OR IGNORE INTO doc VALUES(?1, ?2)",
    "SELECT max(docno) FROM doc WHERE docno BETWEEN ?1 AND ?2",
    "SELECT docno FROM doc WHERE docno >= ?1 AND key=?2 ORDER BY docno LIMIT 1",
    "DELETE FROM doc WHERE docno=?1",
    "INSERT INTO words(rowid, text) VALUES(?1, ?2)",
    "INSERT INTO words(words, rowid, text) VALUES('delete', ?1, ?2)",
    "SELECT d.key, m.time, m.role, m.content FROM words CROSS JOIN doc d ON d.docno=words.rowid"
        " LEFT JOIN message m ON m.key=d.key WHERE words MATCH ?1"
        " AND words.rowid BETWEEN ?2 AND ?3 ORDER BY words.rowid DESC",
    "SELECT key, time, role, content, metadata, attachments FROM message WHERE key=?1",
    "SELECT d.no FROM dirty d CROSS JOIN session s ON s.no=d.no WHERE s.user=?1",
    "DELETE FROM session WHERE no=?1",
    "SELECT packed FROM session WHERE no=?1",
    "UPDATE session SET packed=?2, revision=revision+1 WHERE no=?1",
    "BEGIN",
    "SELECT id, title FROM session WHERE no=?1",
    "INSERT INTO blob VALUES(?1,?2,?3,?4) ON CONFLICT DO UPDATE SET data=?3, added=?4",
    "SELECT b.data FROM blob b JOIN user u ON u.no=b.user WHERE u.name=?1 AND b.hash=?2",
    "SELECT hash FROM blob WHERE user=?1 AND added<?2",
    "DELETE FROM blob WHERE user=?1 AND hash=?2 AND added<?3"};

/* ---- [connection] ---------------------------------------------------------------------------- */
enum { FSB_SESSION_SQL_MAX_ = 1000000000 }; /* bytes of a value, as SQLite has it by default */

typedef struct fsb_session_sql_ { /* used by one thread at a time; idle ones wait in the store */
    struct fsb_session_sql_ *next;
    fsb_session_store       *store;
    sqlite3                 *db;
    sqlite3_stmt            *prepared[FSB_SESSION_STATEMENTS_];
    int                      has_words; /* FTS5 is there */
    int                      failed;    /* not to be used again */
    int64_t                  waited_us; /* for the lock, in the call under way */
} fsb_session_sql_;

static int fsb_session_sql_errno_(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK: case SQLITE_ROW: case SQLITE_DONE: return 0;
    case SQLITE_NOMEM: return -ENOMEM;
    case SQLITE_BUSY: case SQLITE_LOCKED: return -ETIMEDOUT;
    case SQLITE_FULL: return -ENOSPC;
    case SQLITE_READONLY: return -EROFS;
    case SQLITE_PERM: case SQLITE_AUTH: return -EACCES;
    case SQLITE_NOTADB: case SQLITE_CORRUPT: return -EBADMSG;
    case SQLITE_TOOBIG: return -EMSGSIZE;
    case SQLITE_CONSTRAINT: return -EEXIST;
    default: return -EIO;
    }
}

/* What failed for want of memory or of the disk may have left FTS5 in a state in which it takes the
   index for damaged, until it is closed. */
static int fsb_session_sql_fail_(fsb_session_sql_ *c, int rc)
{
    const int err = fsb_session_sql_errno_(rc);
    c->failed |= err != 0 && err != -ETIMEDOUT && err != -EEXIST;
    return fsb_session_fail_(c->store, err, "%s: %s", c->store->desc.path, sqlite3_errmsg(c->db));
}

static int fsb_session_busy_(void *user, int tries)
{
    fsb_session_sql_ *c = (fsb_session_sql_ *)user;
    if (!tries) c->waited_us = 0;
    if (c->waited_us > (int64_t)c->store->desc.busy_ms * 1000) return 0;
    const int64_t         us = tries < 20 ? 100 + 50 * tries : 2000;
    const struct timespec nap = {0, us * 1000};
    nanosleep(&nap, NULL);
    c->waited_us += us;
    return 1;
}

/* *api NULL: this SQLite has no such function. */
static int fsb_session_fts_(sqlite3 *db, fts5_api **api)
{
    sqlite3_stmt *st = NULL;
    int           rc = sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &st, NULL);
    *api = NULL;
    if (rc == SQLITE_OK) rc = sqlite3_bind_pointer(st, 1, (void *)api, "fts5_api_ptr", NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    sqlite3_finalize(st);
    return rc == SQLITE_ROW || rc == SQLITE_ERROR ? SQLITE_OK : rc;
}

static int fsb_session_fts_create_(void *context, const char **args, int count, Fts5Tokenizer **out)
{
    (void)args, (void)count;
    *out = (Fts5Tokenizer *)context; /* no state: any pointer but NULL will do */
    return SQLITE_OK;
}

static void fsb_session_fts_delete_(Fts5Tokenizer *tokenizer)
{
    (void)tokenizer;
}

/* Texts come as "NUMBER\x1fwords": each word is handed on as "NUMBER:word". */
static int fsb_session_fts_tokenize_(Fts5Tokenizer *tokenizer, void *context, int flags,
                                     const char *text, int size,
                                     int (*token)(void *, int, const char *, int, int, int))
{
    char               word[24 + FSB_SESSION_WORD_ + 4];
    fsb_session_words_ w;
    int                at = 0, rc = SQLITE_OK;
    (void)tokenizer, (void)flags;
    while (at < size && at < 20 && text[at] != '\x1f') word[at] = text[at], ++at;
    if (at == size || text[at] != '\x1f') return SQLITE_OK;
    word[at] = ':';
    fsb_session_words_begin_(&w, text + at + 1, (size_t)(size - at - 1));
    while (rc == SQLITE_OK && fsb_session_next_word_(&w)) {
        memcpy(word + at + 1, w.word, w.len);
        rc = token(context, 0, word, at + 1 + (int)w.len, at + 1 + (int)w.start,
                   at + 1 + (int)w.end);
    }
    return rc;
}

static int fsb_session_sql_exec_(fsb_session_sql_ *c, const char *sql)
{
    const int rc = sqlite3_exec(c->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : fsb_session_sql_fail_(c, rc);
}

static int64_t fsb_session_pragma_(fsb_session_sql_ *c, const char *sql, int *err)
{
    sqlite3_stmt *st = NULL;
    int64_t       value = 0;
    int           rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW)
        value = sqlite3_column_int64(st, 0);
    if (fsb_session_sql_errno_(rc)) *err = fsb_session_sql_fail_(c, rc);
    sqlite3_finalize(st);
    return value;
}

/* Makes the tables, if they are not there; refuses a database that is newer, or not ours. */
static int fsb_session_sql_schema_(fsb_session_sql_ *c)
{
    int           err = 0;
    const int64_t version = fsb_session_pragma_(c, "PRAGMA user_version", &err);
    const int64_t owner = err ? 0 : fsb_session_pragma_(c, "PRAGMA application_id", &err);
    if (err) return err;
    if (owner == 0x66736273 && version > FSB_SESSION_FORMAT_)
        return fsb_session_fail_(c->store, -ENOTSUP, "%s: made by a newer version (format %d)",
                                 c->store->desc.path, (int)version);
    if (owner == 0x66736273 && version == FSB_SESSION_FORMAT_) return 0;
    const int64_t tables = fsb_session_pragma_(c, "SELECT count(*) FROM sqlite_master", &err);
    if (err) return err;
    if (tables || owner || version)
        return fsb_session_fail_(c->store, -EBADMSG, "%s: a database of something else",
                                 c->store->desc.path);
    if (c->store->desc.read_only) return -ENOENT;
    err = fsb_session_sql_exec_(c, fsb_session_schema_);
    return err;
}

static void fsb_session_sql_close_(fsb_session_sql_ *c)
{
    for (int i = 0; i < FSB_SESSION_STATEMENTS_; ++i) sqlite3_finalize(c->prepared[i]);
    sqlite3_close_v2(c->db);
    fsb_session_drop_(&c->store->desc.allocator, c, sizeof *c);
}

/* Two processes that turn a new file to WAL at once would wait for each other: SQLite then answers
   busy without asking the handler, and the loser is to try again. */
static int fsb_session_sql_wal_(fsb_session_sql_ *c)
{
    int err, tries = 0;
    do err = fsb_session_sql_exec_(c, "PRAGMA journal_mode=WAL");
    while (err == -ETIMEDOUT && fsb_session_busy_(c, tries++));
    return err;
}

static int fsb_session_sql_setup_(fsb_session_sql_ *c)
{
    static fts5_tokenizer const tokenizer = {fsb_session_fts_create_, fsb_session_fts_delete_,
                                             fsb_session_fts_tokenize_};
    static const char *const sync[3] = {"PRAGMA synchronous=NORMAL", "PRAGMA synchronous=OFF",
                                        "PRAGMA synchronous=FULL"};
    sqlite3_busy_handler(c->db, fsb_session_busy_, c);
    sqlite3_limit(c->db, SQLITE_LIMIT_LENGTH, FSB_SESSION_SQL_MAX_);
    int err = fsb_session_sql_exec_(c, "PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY");
    if (!err && !c->store->desc.read_only) err = fsb_session_sql_wal_(c);
    if (!err) err = fsb_session_sql_exec_(c, sync[c->store->desc.durability]);
    if (err) return err;
    fts5_api      *api;
    fts5_tokenizer copy = tokenizer;
    int            rc = fsb_session_fts_(c->db, &api);
    if (rc == SQLITE_OK && api) rc = api->xCreateTokenizer(api, "fsb_session", c, &copy, NULL);
    c->has_words = rc == SQLITE_OK && api;
    return rc == SQLITE_OK ? 0 : fsb_session_sql_fail_(c, rc);
}

/* Can nobody write to it, for want of a mode bit or on a read-only file system? */
static int fsb_session_is_frozen_(const char *path)
{
    struct stat st;
    if (fstatat(AT_FDCWD, path, &st, 0)) return 0;
    return !(st.st_mode & 0222) || (access(path, W_OK) && errno == EROFS);
}

/* WAL needs files beside the database, even to read it. Where none can be made and none was left it
   is read as it stands: "immutable", which only a URI can say. Else *uri is empty. */
static int fsb_session_sql_uri_(const char *path, fsb_session_buf_ *uri)
{
    const char *slash = strrchr(path, '/');
    fsb_session_put_(uri, path, slash ? (size_t)(slash + 1 - path) : 0);
    fsb_session_put_(uri, ".", 2);
    int frozen = !uri->err && fsb_session_is_frozen_(path) && fsb_session_is_frozen_(uri->data);
    uri->size = 0;
    fsb_session_puts_(uri, path), fsb_session_put_(uri, "-wal", 5);
    frozen = frozen && !uri->err && access(uri->data, F_OK) && errno == ENOENT;
    uri->size = 0;
    if (!frozen) return uri->err;
    fsb_session_puts_(uri, *path == '/' ? "file://" : "file:");
    for (; *path; ++path) {
        char byte[4];
        snprintf(byte, sizeof byte, strchr("%?#", *path) ? "%%%02x" : "%c", (unsigned char)*path);
        fsb_session_puts_(uri, byte);
    }
    fsb_session_put_(uri, "?immutable=1", 13);
    return uri->err;
}

static int fsb_session_sql_open_file_(fsb_session_sql_ *c)
{
    fsb_session_buf_ uri = fsb_session_buffer_(&c->store->desc.allocator);
    const char      *path = c->store->desc.path;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, rc = SQLITE_OK;
    if (c->store->desc.read_only) {
        rc = fsb_session_sql_uri_(path, &uri) ? SQLITE_NOMEM : SQLITE_OK;
        flags = SQLITE_OPEN_READONLY | (uri.size ? SQLITE_OPEN_URI : 0);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_open_v2(uri.size ? uri.data : path, &c->db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    fsb_session_unbuffer_(&uri);
    return rc;
}

static int fsb_session_sql_connect_(fsb_session_store *store, fsb_session_sql_ **out)
{
    fsb_session_sql_ *c = (fsb_session_sql_ *)fsb_session_take_(&store->desc.allocator, sizeof *c);
    if (!c) return -ENOMEM;
    c->store = store;
    const int rc = fsb_session_sql_open_file_(c);
    int       err = rc == SQLITE_OK ? fsb_session_sql_setup_(c) : fsb_session_sql_fail_(c, rc);
    if (err && (rc & 0xff) == SQLITE_CANTOPEN) {
        const int system = c->db ? sqlite3_system_errno(c->db) : 0;
        err = system ? -system : -EIO;
    }
    /* SQLite opens for reading what it could not for writing, if only for want of a descriptor */
    if (!err && !store->desc.read_only && sqlite3_db_readonly(c->db, "main") == 1 &&
        access(store->desc.path, W_OK) == 0)
        err = -EIO;
    if (err) fsb_session_sql_close_(c);
    else *out = c;
    return err;
}

static int fsb_session_sql_take_(fsb_session_store *store, fsb_session_sql_ **out)
{
    pthread_mutex_lock(&store->lock);
    fsb_session_sql_ *c = store->idle;
    if (c) store->idle = c->next;
    pthread_mutex_unlock(&store->lock);
    *out = c;
    return c ? 0 : fsb_session_sql_connect_(store, out);
}

static void fsb_session_sql_give_(fsb_session_sql_ *c)
{
    if (c->failed || !sqlite3_get_autocommit(c->db)) { /* or its transaction could not be ended */
        fsb_session_sql_close_(c);
        return;
    }
    pthread_mutex_lock(&c->store->lock);
    c->next = c->store->idle;
    c->store->idle = c;
    pthread_mutex_unlock(&c->store->lock);
}

/* A prepared statement, ready to be bound; NULL if it cannot be had. */
static sqlite3_stmt *fsb_session_statement_(fsb_session_sql_ *c, int which)
{
    if (!c->prepared[which])
        sqlite3_prepare_v3(c->db, fsb_session_sql_text_[which], -1, SQLITE_PREPARE_PERSISTENT,
                           &c->prepared[which], NULL);
    return c->prepared[which];
}

/* Runs a statement to its end. NULL stands for one that could not be prepared. */
static int fsb_session_sql_run_(fsb_session_sql_ *c, sqlite3_stmt *st)
{
    int rc = st ? sqlite3_step(st) : sqlite3_errcode(c->db);
    if (st && (rc == SQLITE_DONE || rc == SQLITE_ROW)) {
        sqlite3_reset(st);
        return 0;
    }
    const int err = fsb_session_sql_fail_(c, rc);
    if (st) sqlite3_reset(st);
    return err ? err : -EIO;
}

static int fsb_session_sql_do_(fsb_session_sql_ *c, int which)
{
    return fsb_session_sql_run_(c, fsb_session_statement_(c, which));
}

/* The same for one with integers to bind. */
static int fsb_session_sql_ints_(fsb_session_sql_ *c, int which, int64_t a, int64_t b)
{
    sqlite3_stmt *st = fsb_session_statement_(c, which);
    if (st) sqlite3_bind_int64(st, 1, a);
    if (st && sqlite3_bind_parameter_count(st) > 1) sqlite3_bind_int64(st, 2, b);
    return fsb_session_sql_run_(c, st);
}

/* Steps a query: 1 a row, 0 the end (and it is reset), or an errno. */
static int fsb_session_sql_row_(fsb_session_sql_ *c, sqlite3_stmt *st)
{
    const int rc = st ? sqlite3_step(st) : sqlite3_errcode(c->db);
    if (st && rc == SQLITE_ROW) return 1;
    const int err = rc == SQLITE_DONE ? 0 : fsb_session_sql_fail_(c, rc);
    if (st) sqlite3_reset(st);
    return st ? err : err ? err : -EIO;
}

/* The first column of the first row; -ENOENT if there is none. */
static int fsb_session_sql_int_(fsb_session_sql_ *c, sqlite3_stmt *st, int64_t *out)
{
    const int got = fsb_session_sql_row_(c, st);
    if (got < 1) return got ? got : -ENOENT;
    *out = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static void fsb_session_bind_(sqlite3_stmt *st, int i, const char *text, size_t size)
{
    sqlite3_bind_text64(st, i, text ? text : "", size, SQLITE_STATIC, SQLITE_UTF8);
}

static void fsb_session_bind_string_(sqlite3_stmt *st, int i, const char *text)
{
    fsb_session_bind_(st, i, text, text ? strlen(text) : 0);
}

/* The blob call keeps bytes as they are: TEXT is never converted, the database is UTF-8. */
static fsb_session_span fsb_session_column_(sqlite3_stmt *st, int i)
{
    const char            *data = (const char *)sqlite3_column_blob(st, i);
    const int              size = data ? sqlite3_column_bytes(st, i) : 0; /* NULL: or no memory */
    const fsb_session_span span = {data ? data : "", (size_t)size};
    return span;
}

static int fsb_session_sql_begin_(fsb_session_sql_ *c)
{
    if (c->store->desc.read_only) return -EROFS;
    return fsb_session_sql_do_(c, FSB_SESSION_BEGIN_);
}

static int fsb_session_sql_end_(fsb_session_sql_ *c, int err)
{
    if (!err) err = fsb_session_sql_do_(c, FSB_SESSION_COMMIT_);
    if (err && !sqlite3_get_autocommit(c->db)) {
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_ROLLBACK_);
        if (st) sqlite3_step(st), sqlite3_reset(st);
    }
    return err;
}

/* ---- [branch] -------------------------------------------------------------------------------- */
/* What a row says beyond the public info. */
typedef struct fsb_session_row_ {
    fsb_session_info info;
    int64_t          no, upto, revision, indexed, user;
    int              packed;
} fsb_session_row_;

static int fsb_session_column_string_(fsb_session_block *block, sqlite3_stmt *st, int i,
                                      const char **out)
{
    const fsb_session_span span = fsb_session_column_(st, i);
    *out = fsb_session_block_copy_(block, span.data, span.size);
    return *out ? 0 : -ENOMEM;
}

static int fsb_session_read_row_(fsb_session_block *block, sqlite3_stmt *st, const char *user,
                                 fsb_session_row_ *row)
{
    fsb_session_info *info = &row->info;
    memset(row, 0, sizeof *row);
    row->no = sqlite3_column_int64(st, 0);
    int err = fsb_session_column_string_(block, st, 1, &info->id);
    if (!err) err = fsb_session_column_string_(block, st, 2, &info->title);
    const fsb_session_span tags = fsb_session_column_(st, 3);
    if (!err && tags.size && fsb_session_is_json_(tags, 2) &&
        fsb_session_read_tags_(block, tags, info) == -ENOMEM)
        err = -ENOMEM;
    info->config = fsb_session_column_(st, 4), info->metadata = fsb_session_column_(st, 5);
    if (!err) err = fsb_session_column_string_(block, st, 4, &info->config.data);
    if (!err) err = fsb_session_column_string_(block, st, 5, &info->metadata.data);
    info->created_ns = sqlite3_column_int64(st, 6), info->updated_ns = sqlite3_column_int64(st, 7);
    if (!err) err = fsb_session_column_string_(block, st, 8, &info->parent);
    info->fork_id = (uint64_t)sqlite3_column_int64(st, 9);
    row->upto = sqlite3_column_int64(st, 10);
    info->message_count = (uint64_t)sqlite3_column_int64(st, 11);
    info->last_id = (uint64_t)sqlite3_column_int64(st, 12);
    info->bytes = (uint64_t)sqlite3_column_int64(st, 13);
    row->revision = sqlite3_column_int64(st, 14), row->indexed = sqlite3_column_int64(st, 15);
    row->packed = sqlite3_column_int(st, 16), row->user = sqlite3_column_int64(st, 17);
    info->cold = (uint32_t)row->packed, info->user = user;
    return err;
}

/* Looks a session up, by number if no > 0, else by user and id. */
static int fsb_session_find_row_(fsb_session_sql_ *c, int64_t no, const char *user, const char *id,
                                 fsb_session_block *block, fsb_session_row_ *row)
{
    sqlite3_stmt *st = fsb_session_statement_(c, no ? FSB_SESSION_SELECT_NO_ : FSB_SESSION_SELECT_);
    if (st && no) sqlite3_bind_int64(st, 1, no);
    else if (st) fsb_session_bind_string_(st, 1, user), fsb_session_bind_string_(st, 2, id);
    const int got = fsb_session_sql_row_(c, st);
    if (got < 1) return got ? got : -ENOENT;
    const int err = fsb_session_read_row_(block, st, user, row);
    sqlite3_reset(st);
    return err;
}

static int64_t fsb_session_key_(int64_t no, uint64_t id)
{
    return (int64_t)((uint64_t)no << 32 | (id < UINT32_MAX ? id : UINT32_MAX));
}

/* Brings s up to date with its row, whoever changed it. */
static int fsb_session_sql_refresh_(fsb_session_sql_ *c, fsb_session *s)
{
    fsb_session_row_   row;
    fsb_session_block *block = fsb_session_block_new_(&s->store->desc.allocator);
    int err = block ? fsb_session_find_row_(c, 0, s->info.user, s->info.id, block, &row) : -ENOMEM;
    if (!err && s->number && !s->doubt && s->number == row.no && s->revision == row.revision) {
        fsb_session_block_free_(block);
        return 0;
    }
    if (!err) err = fsb_session_adopt_(s, &row.info);
    if (!err) {
        s->number = row.no, s->revision = row.revision, s->doubt = 0;
        s->branch.inherits = (uint64_t)row.upto;
        if (s->has_notes && !fsb_session_notes_agree_(s)) s->has_notes = 0, s->behind = 1;
    }
    fsb_session_block_free_(block);
    return err;
}

static int fsb_session_sql_open_(fsb_session *s)
{
    fsb_session_sql_ *c;
    int               err = fsb_session_sql_take_(s->store, &c);
    if (err) return err;
    err = fsb_session_sql_refresh_(c, s);
    fsb_session_sql_give_(c);
    return err;
}

static int fsb_session_sql_ready_(fsb_session *s)
{
    return s->store->desc.read_only ? -EROFS : s->doubt ? fsb_session_sql_open_(s) : 0;
}

static void fsb_session_sql_release_(fsb_session *s)
{
    (void)s;
}

/* One row of message as a message whose parts are in the block. */
static int fsb_session_read_row_message_(fsb_session_block *block, sqlite3_stmt *st,
                                         fsb_session_message *m)
{
    memset(m, 0, sizeof *m);
    m->id = (uint64_t)sqlite3_column_int64(st, 0) & UINT32_MAX;
    m->time_ns = sqlite3_column_int64(st, 1);
    m->content = fsb_session_column_(st, 3), m->metadata = fsb_session_column_(st, 4);
    int err = fsb_session_column_string_(block, st, 2, &m->role);
    if (!err) err = fsb_session_column_string_(block, st, 3, &m->content.data);
    if (!err) err = fsb_session_column_string_(block, st, 4, &m->metadata.data);
    const fsb_session_span attachments = fsb_session_column_(st, 5);
    if (!err && attachments.size &&
        fsb_session_is_json_(attachments, 8) &&
        fsb_session_read_attachments_(block, attachments, m) == -ENOMEM)
        err = -ENOMEM;
    return err;
}

/* The packed messages of a cold session, those from lo to hi. */
static int fsb_session_load_packed_(fsb_session_sql_ *c, int64_t no, uint64_t lo, uint64_t hi,
                                    fsb_session_block *block, fsb_session_buf_ *list)
{
    const fsb_session_range range = {lo, hi, 0};
    fsb_session_buf_        text = fsb_session_buffer_(list->mem);
    fsb_session_walk_       w;
    fsb_session_line_kind_  kind = FSB_SESSION_BAD_LINE_;
    fsb_session_message     m;
    sqlite3_stmt           *st = fsb_session_statement_(c, FSB_SESSION_PACKED_);
    if (st) sqlite3_bind_int64(st, 1, no);
    const int got = fsb_session_sql_row_(c, st);
    int err = got < 0 ? got
              : got   ? fsb_session_unpack_(fsb_session_column_(st, 0), &text)
                      : -ENOENT;
    if (got > 0) sqlite3_reset(st);
    fsb_session_walk_begin_(&w, "", "", text.size);
    while (!err && kind != FSB_SESSION_BLANK_LINE_) {
        err = fsb_session_step_(&w, block, text.data, &m, &kind);
        if (!err && kind == FSB_SESSION_MESSAGE_LINE_) err = fsb_session_gather_(list, &range, &m);
    }
    fsb_session_unbuffer_(&text);
    return err;
}

static int fsb_session_load_rows_(fsb_session_sql_ *c, int64_t no, uint64_t lo, uint64_t hi,
                                  fsb_session_block *block, fsb_session_buf_ *list)
{
    fsb_session_message m;
    int                 got, err = 0;
    sqlite3_stmt       *st = fsb_session_statement_(c, FSB_SESSION_MESSAGES_);
    if (st) sqlite3_bind_int64(st, 1, fsb_session_key_(no, lo));
    if (st) sqlite3_bind_int64(st, 2, fsb_session_key_(no, hi));
    while (!err && (got = fsb_session_sql_row_(c, st)) != 0) {
        if (got < 0) return got;
        if (!(err = fsb_session_read_row_message_(block, st, &m)))
            fsb_session_put_(list, &m, sizeof m), err = list->err;
    }
    if (err) sqlite3_reset(st);
    return err;
}

typedef struct fsb_session_part_ { /* messages lo to hi are those of session no */
    int64_t  no;
    uint64_t lo, hi;
    int      packed;
} fsb_session_part_;

/* Whose the messages lo to hi of a session are: the last part first. */
static int fsb_session_parts_(fsb_session_sql_ *c, int64_t no, uint64_t lo, uint64_t hi,
                              fsb_session_buf_ *parts)
{
    for (int links = 0; no > 0 && hi >= lo && hi > 0; ++links) {
        if (links > 1000000) return -EBADMSG; /* bases that go in circles */
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_CHAIN_);
        if (st) sqlite3_bind_int64(st, 1, no);
        const int got = fsb_session_sql_row_(c, st);
        if (got < 0) return got;
        if (!got) return -EBADMSG; /* its base is gone */
        const int64_t  base = sqlite3_column_int64(st, 0);
        const uint64_t upto = base > 0 ? (uint64_t)sqlite3_column_int64(st, 1) : 0;
        const fsb_session_part_ part = {no, upto + 1 > lo ? upto + 1 : lo, hi,
                                        sqlite3_column_int(st, 2)};
        sqlite3_reset(st);
        if (part.lo <= part.hi) fsb_session_put_(parts, &part, sizeof part);
        no = base;
        if (upto < hi) hi = upto;
    }
    return parts->err;
}

static int fsb_session_load_in_(fsb_session_sql_ *c, int64_t no, const fsb_session_range *range,
                                fsb_session_block *block, fsb_session_buf_ *list)
{
    fsb_session_buf_ parts = fsb_session_buffer_(list->mem);
    uint64_t         lo = range && range->first_id ? range->first_id : 1;
    const uint64_t   hi = range && range->last_id && range->last_id < UINT32_MAX ? range->last_id
                                                                                : UINT32_MAX;
    int err = fsb_session_parts_(c, no, lo, hi, &parts);
    const fsb_session_part_ *part = (const fsb_session_part_ *)(const void *)parts.data;
    const size_t             count = parts.size / sizeof *part;
    if (!err && range && range->newest && count && !part[0].packed) { /* often its end is enough */
        int64_t       key;
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_NEWEST_ROWS_);
        if (st) sqlite3_bind_int64(st, 1, fsb_session_key_(no, part[0].lo));
        if (st) sqlite3_bind_int64(st, 2, fsb_session_key_(no, hi));
        if (st)
            sqlite3_bind_int64(
                st, 3, (int64_t)(range->newest < INT64_MAX ? range->newest : INT64_MAX) - 1);
        err = fsb_session_sql_int_(c, st, &key);
        if (!err) lo = (uint64_t)key & UINT32_MAX;
        if (err == -ENOENT) err = 0;
    }
    for (size_t i = count; !err && i-- > 0;) {
        if (part[i].hi < lo) continue;
        const uint64_t from = part[i].lo > lo ? part[i].lo : lo;
        err = part[i].packed
                  ? fsb_session_load_packed_(c, part[i].no, from, part[i].hi, block, list)
                  : fsb_session_load_rows_(c, part[i].no, from, part[i].hi, block, list);
    }
    fsb_session_unbuffer_(&parts);
    return err;
}

static int fsb_session_sql_load_(fsb_session *s, const fsb_session_range *range,
                                 fsb_session_block *block, fsb_session_messages *out)
{
    fsb_session_sql_ *c;
    fsb_session_buf_  list = fsb_session_buffer_(&s->store->desc.allocator);
    int               err = fsb_session_sql_take_(s->store, &c);
    if (err) return err;
    /* One read transaction, or a fork and its base might be of different times. */
    fsb_session_sql_do_(c, FSB_SESSION_READ_);
    err = fsb_session_sql_refresh_(c, s);
    if (!err) err = fsb_session_load_in_(c, s->number, range, block, &list);
    fsb_session_sql_do_(c, FSB_SESSION_COMMIT_);
    fsb_session_sql_give_(c);
    if (err) return fsb_session_unbuffer_(&list), err;
    return fsb_session_gathered_(&list, range, block, out);
}

/* ---- [index] --------------------------------------------------------------------------------- */
static void fsb_session_put_doc_(fsb_session_buf_ *b, int64_t user, fsb_session_span text)
{
    b->size = 0;
    fsb_session_put_uint_(b, (uint64_t)user);
    fsb_session_put_(b, "\x1f", 1);
    fsb_session_put_(b, text.data, text.size < FSB_SESSION_INDEXED_ ? text.size
                                                                : (size_t)FSB_SESSION_INDEXED_);
}

/* Makes the index anew, for all users: it is one table. Nobody sees the database without it: this
   belongs into a transaction. */
static int fsb_session_index_anew_(fsb_session_sql_ *c)
{
    const int err = fsb_session_sql_exec_(
        c, "DROP TABLE IF EXISTS words; DELETE FROM doc; UPDATE session SET indexed=-1;"
           "INSERT OR IGNORE INTO dirty SELECT no FROM session");
    return err ? err : fsb_session_sql_exec_(c, fsb_session_schema_words_);
}

/* Did a SQLite without FTS5 change what is in the index? It cannot take words out, but says so with
   a row of doc that no message has. */
enum { FSB_SESSION_STALE_ = -1 };
static int fsb_session_index_is_stale_(fsb_session_sql_ *c)
{
    int64_t       docno;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_DOC_FREE_);
    if (st) sqlite3_bind_int64(st, 1, FSB_SESSION_STALE_);
    if (st) sqlite3_bind_int64(st, 2, FSB_SESSION_STALE_);
    return fsb_session_sql_int_(c, st, &docno) == 0 && docno == FSB_SESSION_STALE_;
}

/* Enters a message in the index: its number is its time in us, or the next free one. */
static int fsb_session_index_(fsb_session_sql_ *c, int64_t user, int64_t key, int64_t time_ns,
                              fsb_session_span text, fsb_session_buf_ *scratch)
{
    int64_t docno = time_ns / 1000;
    int     err = 0;
    if (!c->has_words) return 0;
    for (;;) {
        if ((err = fsb_session_sql_ints_(c, FSB_SESSION_DOC_ADD_, docno, key)) != 0) return err;
        if (sqlite3_changes(c->db)) break;
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_DOC_FREE_);
        if (st) sqlite3_bind_int64(st, 1, docno), sqlite3_bind_int64(st, 2, docno + 999999);
        if ((err = fsb_session_sql_int_(c, st, &docno)) != 0) return err;
        ++docno;
    }
    fsb_session_put_doc_(scratch, user, text);
    if (scratch->err) return -ENOMEM;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_WORDS_ADD_);
    if (st) sqlite3_bind_int64(st, 1, docno);
    if (st) fsb_session_bind_(st, 2, scratch->data, scratch->size);
    return fsb_session_sql_run_(c, st);
}

static int fsb_session_unindex_(fsb_session_sql_ *c, int64_t user, int64_t key, int64_t time_ns,
                                fsb_session_span text, fsb_session_buf_ *scratch)
{
    int64_t       docno;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_DOC_FIND_);
    if (st) sqlite3_bind_int64(st, 1, time_ns / 1000), sqlite3_bind_int64(st, 2, key);
    int err = fsb_session_sql_int_(c, st, &docno);
    if (err) return err == -ENOENT ? 0 : err;
    if (!c->has_words) return fsb_session_sql_ints_(c, FSB_SESSION_DOC_ADD_, FSB_SESSION_STALE_, 0);
    fsb_session_put_doc_(scratch, user, text);
    if (scratch->err) return -ENOMEM;
    st = fsb_session_statement_(c, FSB_SESSION_WORDS_DROP_);
    if (st) sqlite3_bind_int64(st, 1, docno);
    if (st) fsb_session_bind_(st, 2, scratch->data, scratch->size);
    if (!(err = fsb_session_sql_run_(c, st)))
        err = fsb_session_sql_ints_(c, FSB_SESSION_DOC_DROP_, docno, 0);
    return err;
}

/* Title and tags in (on 1) or out of (on 0) the index, as message 0. */
static int fsb_session_index_head_(fsb_session_sql_ *c, const fsb_session_row_ *row, int on,
                                   fsb_session_buf_ *scratch)
{
    fsb_session_buf_ text = fsb_session_buffer_(scratch->mem);
    fsb_session_put_title_(&text, &row->info);
    const fsb_session_span span = {text.data, text.size};
    const int64_t          key = fsb_session_key_(row->no, 0);
    int                    err = text.err;
    if (!err)
        err = on ? fsb_session_index_(c, row->user, key, row->info.created_ns, span, scratch)
                 : fsb_session_unindex_(c, row->user, key, row->info.created_ns, span, scratch);
    fsb_session_unbuffer_(&text);
    return err;
}

/* Indexes up to *budget messages of one session; takes it off the dirty ones if that was all. */
static int fsb_session_index_session_(fsb_session_sql_ *c, int64_t no, int *budget,
                                      fsb_session_block *block)
{
    const fsb_allocator *mem = &c->store->desc.allocator;
    fsb_session_buf_     list = fsb_session_buffer_(mem), scratch = fsb_session_buffer_(mem);
    fsb_session_row_     row;
    int                  err = fsb_session_find_row_(c, no, "", "", block, &row);
    if (err == -ENOENT) return fsb_session_sql_ints_(c, FSB_SESSION_CLEAN_, no, 0);
    if (!err && row.indexed < 0) {
        if (!(err = fsb_session_index_head_(c, &row, 1, &scratch))) row.indexed = 0;
        --*budget;
    }
    const uint64_t from = (uint64_t)(row.indexed > row.upto ? row.indexed : row.upto) + 1;
    const uint64_t to = *budget > 0 ? from + (uint64_t)*budget - 1 : 0;
    if (!err && to)
        err = row.packed ? fsb_session_load_packed_(c, no, from, to, block, &list)
                         : fsb_session_load_rows_(c, no, from, to, block, &list);
    const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
    for (size_t i = 0; !err && i < list.size / sizeof *m; ++i, --*budget)
        err = fsb_session_index_(c, row.user, fsb_session_key_(no, m[i].id), m[i].time_ns,
                                 m[i].content, &scratch);
    if (!err && to) row.indexed = (int64_t)(to < row.info.last_id ? to : row.info.last_id);
    if (!err) err = fsb_session_sql_ints_(c, FSB_SESSION_SET_INDEXED_, no, row.indexed);
    if (!err && row.indexed >= (int64_t)row.info.last_id)
        err = fsb_session_sql_ints_(c, FSB_SESSION_CLEAN_, no, 0);
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&scratch);
    return err;
}

/* Feeds the index one batch. 1: there is more. */
static int fsb_session_index_batch_(fsb_session_sql_ *c)
{
    int budget = FSB_SESSION_BATCH_, more = 1;
    int err = fsb_session_sql_begin_(c);
    if (err) return err;
    while (!err && more && budget > 0) {
        int64_t            no;
        fsb_session_block *block = NULL;
        err = fsb_session_sql_int_(c, fsb_session_statement_(c, FSB_SESSION_DIRTY_), &no);
        if (err == -ENOENT) err = more = 0;
        else if (!err && !(block = fsb_session_block_new_(&c->store->desc.allocator)))
            err = -ENOMEM;
        else if (!err) err = fsb_session_index_session_(c, no, &budget, block);
        fsb_session_block_free_(block);
    }
    err = fsb_session_sql_end_(c, err);
    return err ? err : more;
}

static int fsb_session_any_dirty_(fsb_session_sql_ *c)
{
    int64_t no;
    return fsb_session_sql_int_(c, fsb_session_statement_(c, FSB_SESSION_DIRTY_), &no) == 0;
}

/* After a save: enough waits for a batch. What goes wrong here is not the save's concern. */
static void fsb_session_feed_(fsb_session_sql_ *c, size_t count)
{
    if (!c->has_words || c->store->desc.no_search) return;
    const uint64_t n = __atomic_add_fetch(&c->store->unindexed, count, __ATOMIC_RELAXED);
    if (n < FSB_SESSION_BATCH_) return;
    __atomic_store_n(&c->store->unindexed, 0, __ATOMIC_RELAXED);
    const int err = fsb_session_index_batch_(c);
    if (err < 0)
        fsb_session_log_(c->store, FSB_LOG_WARN, "session/index", "the index lags behind: error %d",
                         -err);
}

/* ---- [database] ------------------------------------------------------------------------------ */
static int fsb_session_bind_message_(fsb_session_sql_ *c, int which, int64_t no,
                                     const fsb_session_message *m, fsb_session_buf_ *scratch)
{
    sqlite3_stmt *st = fsb_session_statement_(c, which);
    if (m->id >= UINT32_MAX) return -EINVAL;
    scratch->size = 0;
    if (m->attachment_count) fsb_session_put_attachments_(scratch, m);
    if (scratch->err) return -ENOMEM;
    if (st) {
        sqlite3_bind_int64(st, 1, fsb_session_key_(no, m->id));
        sqlite3_bind_int64(st, 2, m->time_ns);
        fsb_session_bind_string_(st, 3, m->role);
        fsb_session_bind_(st, 4, m->content.data, m->content.size);
        fsb_session_bind_(st, 5, m->metadata.data, m->metadata.size);
        fsb_session_bind_(st, 6, scratch->data, scratch->size);
    }
    return fsb_session_sql_run_(c, st);
}

/* Inserts messages with the ids and times that they get, counted into *info. */
static int fsb_session_insert_(fsb_session_sql_ *c, int64_t no, const fsb_session_message *messages,
                               size_t count, int64_t now, fsb_session_info *info,
                               fsb_session_buf_ *scratch)
{
    int err = 0;
    for (size_t i = 0; !err && i < count; ++i) {
        fsb_session_message m = messages[i];
        if (!m.time_ns) m.time_ns = now;
        fsb_session_settle_(info, &m);
        err = fsb_session_bind_message_(c, FSB_SESSION_INSERT_, no, &m, scratch);
    }
    return err;
}

/* Stores all that a row has but its messages. base < 0: as it is. */
static int fsb_session_update_(fsb_session_sql_ *c, const fsb_session_row_ *row, int64_t base)
{
    const fsb_session_info *info = &row->info;
    fsb_session_buf_        tags = fsb_session_buffer_(&c->store->desc.allocator);
    sqlite3_stmt           *st = fsb_session_statement_(c, FSB_SESSION_UPDATE_);
    for (size_t i = 0; i < info->tag_count; ++i) {
        fsb_session_put_(&tags, i ? "," : "[", 1);
        fsb_session_put_json_(&tags, info->tags[i], strlen(info->tags[i]));
    }
    if (info->tag_count) fsb_session_put_(&tags, "]", 1);
    int err = tags.err;
    if (!err && st) {
        sqlite3_bind_int64(st, 1, row->no);
        fsb_session_bind_string_(st, 2, info->title);
        fsb_session_bind_(st, 3, tags.data, tags.size);
        fsb_session_bind_(st, 4, info->config.data, info->config.size);
        fsb_session_bind_(st, 5, info->metadata.data, info->metadata.size);
        sqlite3_bind_int64(st, 6, info->updated_ns);
        fsb_session_bind_string_(st, 7, info->parent);
        sqlite3_bind_int64(st, 8, (int64_t)info->fork_id);
        sqlite3_bind_int64(st, 9, base);
        sqlite3_bind_int64(st, 10, row->upto);
        sqlite3_bind_int64(st, 11, (int64_t)info->message_count);
        sqlite3_bind_int64(st, 12, (int64_t)info->last_id);
        sqlite3_bind_int64(st, 13, (int64_t)info->bytes);
        sqlite3_bind_int64(st, 14, row->indexed);
    }
    if (!err) err = fsb_session_sql_run_(c, st);
    fsb_session_unbuffer_(&tags);
    return err;
}

static int fsb_session_base_(fsb_session_sql_ *c, int64_t no, int64_t *base)
{
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_CHAIN_);
    if (st) sqlite3_bind_int64(st, 1, no);
    return fsb_session_sql_int_(c, st, base);
}

/* Gives a session rows of its own for what it shares with its base, and for what is packed. */
static int fsb_session_own_all_(fsb_session_sql_ *c, fsb_session_row_ *row,
                                fsb_session_block *block)
{
    const fsb_allocator *mem = &c->store->desc.allocator;
    fsb_session_buf_     list = fsb_session_buffer_(mem), scratch = fsb_session_buffer_(mem);
    int                  err = 0;
    if (!row->upto && !row->packed) return 0;
    fsb_session_range range = {1, 0, 0};
    if (!row->packed) range.last_id = (uint64_t)row->upto;
    err = fsb_session_load_in_(c, row->no, &range, block, &list);
    const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
    for (size_t i = 0; !err && i < list.size / sizeof *m; ++i) {
        err = fsb_session_bind_message_(c, FSB_SESSION_INSERT_, row->no, &m[i], &scratch);
        if (!err && (int64_t)m[i].id <= row->upto && row->indexed >= 0)
            err = fsb_session_index_(c, row->user, fsb_session_key_(row->no, m[i].id), m[i].time_ns,
                                     m[i].content, &scratch);
    }
    if (!err && row->packed) {
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_PACK_);
        if (st) sqlite3_bind_int64(st, 1, row->no), sqlite3_bind_null(st, 2);
        err = fsb_session_sql_run_(c, st);
        ++row->revision;
    }
    if (!err && row->indexed >= 0 && row->indexed < row->upto) row->indexed = row->upto;
    row->upto = 0, row->packed = 0, row->info.cold = 0;
    if (!err) err = fsb_session_update_(c, row, 0), ++row->revision;
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&scratch);
    return err;
}

/* Packed rows come back, and nothing else changes. */
static int fsb_session_warm_(fsb_session_sql_ *c, fsb_session_row_ *row, fsb_session_block *block)
{
    const fsb_allocator *mem = &c->store->desc.allocator;
    fsb_session_buf_     list = fsb_session_buffer_(mem), scratch = fsb_session_buffer_(mem);
    if (!row->packed) return 0;
    int err = fsb_session_load_packed_(c, row->no, (uint64_t)row->upto + 1, 0, block, &list);
    const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
    for (size_t i = 0; !err && i < list.size / sizeof *m; ++i)
        err = fsb_session_bind_message_(c, FSB_SESSION_INSERT_, row->no, &m[i], &scratch);
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_PACK_);
    if (st) sqlite3_bind_int64(st, 1, row->no), sqlite3_bind_null(st, 2);
    if (!err) err = fsb_session_sql_run_(c, st);
    row->packed = 0, row->info.cold = 0, ++row->revision;
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&scratch);
    return err;
}

/* Forks that share messages beyond keep_id get their own before these change. */
static int fsb_session_free_forks_(fsb_session_sql_ *c, int64_t no, uint64_t keep_id,
                                   fsb_session_block *block)
{
    int err = 0;
    for (;;) {
        int64_t          child;
        fsb_session_row_ row;
        sqlite3_stmt    *st = fsb_session_statement_(c, FSB_SESSION_FORKS_);
        if (st) sqlite3_bind_int64(st, 1, no);
        if (st) sqlite3_bind_int64(st, 2, (int64_t)(keep_id < INT64_MAX ? keep_id : INT64_MAX));
        if ((err = fsb_session_sql_int_(c, st, &child)) != 0) return err == -ENOENT ? 0 : err;
        if (!(err = fsb_session_find_row_(c, child, "", "", block, &row)))
            err = fsb_session_own_all_(c, &row, block);
        if (err) return err;
    }
}

/* Takes messages first to last out of a session and its index, and counts what is left. */
static int fsb_session_take_out_(fsb_session_sql_ *c, fsb_session_row_ *row, uint64_t first,
                                 uint64_t last, fsb_session_block *block)
{
    const fsb_allocator    *mem = &c->store->desc.allocator;
    const fsb_session_range range = {first, last, 0}, tail = {0, 0, 1};
    fsb_session_buf_        list = fsb_session_buffer_(mem), scratch = fsb_session_buffer_(mem);
    int64_t                 base = 0;
    int err = fsb_session_free_forks_(c, row->no, first - 1, block);
    if (!err) err = fsb_session_warm_(c, row, block);
    /* Shared messages may end sooner, but a gap in them makes them the session's own. */
    if (!err && first <= (uint64_t)row->upto && last < row->info.last_id)
        err = fsb_session_own_all_(c, row, block);
    if (!err) err = fsb_session_load_in_(c, row->no, &range, block, &list);
    const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
    for (size_t i = 0; !err && i < list.size / sizeof *m; ++i) {
        --row->info.message_count;
        const uint64_t weight = fsb_session_weight_(&m[i]);
        row->info.bytes -= weight < row->info.bytes ? weight : row->info.bytes;
        if ((int64_t)m[i].id > row->upto && (int64_t)m[i].id <= row->indexed)
            err = fsb_session_unindex_(c, row->user, fsb_session_key_(row->no, m[i].id),
                                       m[i].time_ns, m[i].content, &scratch);
    }
    if (!err)
        err = fsb_session_sql_ints_(c, FSB_SESSION_DELETE_ROWS_, fsb_session_key_(row->no, first),
                                    fsb_session_key_(row->no, last));
    if (!err && row->upto >= (int64_t)first) row->upto = (int64_t)first - 1;
    if (!err) err = fsb_session_base_(c, row->no, &base);
    if (!err) err = fsb_session_update_(c, row, row->upto ? base : 0), ++row->revision;
    list.size = 0;
    if (!err) err = fsb_session_load_in_(c, row->no, &tail, block, &list);
    m = (const fsb_session_message *)(const void *)list.data;
    if (!err) row->info.last_id = list.size ? m[list.size / sizeof *m - 1].id : 0;
    if (row->indexed > (int64_t)row->info.last_id) row->indexed = (int64_t)row->info.last_id;
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&scratch);
    return err;
}

/* A change to a session that is not just an append: begins, looks the row up as it is now, lets
   `change` work on it, stores the row, commits, and brings s up to date. */
typedef struct fsb_session_change_ {
    uint64_t                   first, last; /* messages to take out; first 0: none */
    const fsb_session_message *messages;    /* to add, or one to put in an old one's place */
    size_t                     count;
    int                        strict; /* somebody else's change is -ESTALE */
    int                        describe, fork;
    uint64_t                   inherits;
} fsb_session_change_;

static int fsb_session_edit_in_(fsb_session_sql_ *c, fsb_session_row_ *row,
                                const fsb_session_message *message, fsb_session_block *block)
{
    const fsb_allocator    *mem = &c->store->desc.allocator;
    const fsb_session_range range = {message->id, message->id, 0};
    fsb_session_buf_        list = fsb_session_buffer_(mem), scratch = fsb_session_buffer_(mem);
    int err = fsb_session_free_forks_(c, row->no, message->id - 1, block);
    if (!err) err = fsb_session_warm_(c, row, block);
    if (!err && (int64_t)message->id <= row->upto) err = fsb_session_own_all_(c, row, block);
    if (!err) err = fsb_session_load_in_(c, row->no, &range, block, &list);
    const fsb_session_message *old = (const fsb_session_message *)(const void *)list.data;
    if (!err && !list.size) err = -ENOENT;
    if (!err) {
        fsb_session_message m = *message;
        const int64_t       key = fsb_session_key_(row->no, m.id);
        if (!m.time_ns) m.time_ns = old->time_ns;
        row->info.bytes += fsb_session_weight_(&m) - fsb_session_weight_(old);
        if (m.time_ns > row->info.updated_ns) row->info.updated_ns = m.time_ns;
        const int indexed = (int64_t)m.id <= row->indexed;
        if (indexed)
            err = fsb_session_unindex_(c, row->user, key, old->time_ns, old->content, &scratch);
        if (!err)
            err = fsb_session_bind_message_(c, FSB_SESSION_REPLACE_ROW_, row->no, &m, &scratch);
        if (!err && indexed)
            err = fsb_session_index_(c, row->user, key, m.time_ns, m.content, &scratch);
    }
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&scratch);
    return err;
}

/* Who the parent is, and whether it still has what is to be shared with it. */
static int fsb_session_base_of_(fsb_session_sql_ *c, const fsb_session *s, uint64_t inherits,
                                fsb_session_block *block, int64_t *base)
{
    fsb_session_row_ row;
    *base = 0;
    if (!inherits) return 0;
    const int err = fsb_session_find_row_(c, 0, s->info.user, s->info.parent, block, &row);
    if (!err) *base = row.info.last_id >= inherits ? row.no : 0;
    return err == -ENOENT ? 0 : err;
}

/* Counts what a new fork shares with its base: known if it is all of it. */
static int fsb_session_count_shared_(fsb_session_sql_ *c, fsb_session_row_ *row, int64_t base,
                                     fsb_session_block *block)
{
    const fsb_session_range range = {0, (uint64_t)row->upto, 0};
    fsb_session_buf_        list = fsb_session_buffer_(&c->store->desc.allocator);
    fsb_session_row_        parent;
    int err = base ? fsb_session_find_row_(c, base, "", "", block, &parent) : -ENOENT;
    if (!err && parent.info.last_id == (uint64_t)row->upto) {
        row->info.message_count = parent.info.message_count;
        row->info.last_id = parent.info.last_id, row->info.bytes = parent.info.bytes;
        if (parent.info.updated_ns > row->info.updated_ns)
            row->info.updated_ns = parent.info.updated_ns;
    } else if (!err && !(err = fsb_session_load_in_(c, base, &range, block, &list))) {
        const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
        for (size_t i = 0; i < list.size / sizeof *m; ++i) fsb_session_count_in_(&row->info, &m[i]);
    }
    fsb_session_unbuffer_(&list);
    return err;
}

static int fsb_session_describe_in_(fsb_session_sql_ *c, fsb_session *s, fsb_session_row_ *row)
{
    fsb_session_buf_ scratch = fsb_session_buffer_(&c->store->desc.allocator);
    int err = row->indexed >= 0 ? fsb_session_index_head_(c, row, 0, &scratch) : 0;
    row->info.title = s->info.title, row->info.tags = s->info.tags;
    row->info.tag_count = s->info.tag_count;
    row->info.config = s->info.config, row->info.metadata = s->info.metadata;
    if (s->info.updated_ns > row->info.updated_ns) row->info.updated_ns = s->info.updated_ns;
    if (!err && row->indexed >= 0) err = fsb_session_index_head_(c, row, 1, &scratch);
    fsb_session_unbuffer_(&scratch);
    return err;
}

static int fsb_session_change_in_(fsb_session_sql_ *c, fsb_session *s, fsb_session_row_ *row,
                                  const fsb_session_change_ *ch, fsb_session_block *block)
{
    fsb_session_buf_ scratch = fsb_session_buffer_(&c->store->desc.allocator);
    int64_t          base = 0;
    int              err = 0;
    if (ch->first) err = fsb_session_take_out_(c, row, ch->first, ch->last, block);
    if (!err && ch->describe) err = fsb_session_describe_in_(c, s, row);
    if (!err && ch->fork) { /* the messages up to inherits are the parent's */
        row->info.parent = s->info.parent, row->info.fork_id = s->info.fork_id;
        err = fsb_session_base_of_(c, s, ch->inherits, block, &base);
        row->upto = base ? (int64_t)ch->inherits : 0;
        if (!err && ch->inherits && !ch->messages)
            err = fsb_session_count_shared_(c, row, base, block);
    } else if (!err && row->upto) err = fsb_session_base_(c, row->no, &base);
    size_t shared = 0;
    for (; !err && row->upto && ch->fork && shared < ch->count; ++shared) {
        if (!ch->messages[shared].id || ch->messages[shared].id > (uint64_t)row->upto) break;
        fsb_session_message m = ch->messages[shared];
        fsb_session_settle_(&row->info, &m);
    }
    if (!err) err = fsb_session_warm_(c, row, block);
    if (!err && ch->messages)
        err = fsb_session_insert_(c, row->no, ch->messages + shared, ch->count - shared,
                                  fsb_session_now_(), &row->info, &scratch);
    if (!err) err = fsb_session_update_(c, row, base), ++row->revision;
    if (!err) err = fsb_session_sql_ints_(c, FSB_SESSION_MARK_, row->no, 0);
    fsb_session_unbuffer_(&scratch);
    return err;
}

static int fsb_session_sql_change_(fsb_session *s, const fsb_session_change_ *ch,
                                   const fsb_session_message *edit, fsb_session_sql_ *batch)
{
    fsb_session_sql_  *c = batch;
    fsb_session_row_   row;
    fsb_session_block *block = fsb_session_block_new_(&s->store->desc.allocator);
    int                err = block ? 0 : -ENOMEM;
    if (!err && !c) err = fsb_session_sql_take_(s->store, &c);
    if (err) return fsb_session_block_free_(block), err;
    if (!batch) err = fsb_session_sql_begin_(c);
    const int begun = !err;
    if (!err) err = fsb_session_find_row_(c, 0, s->info.user, s->info.id, block, &row);
    if (!err && ch->strict && (row.revision != s->revision || row.no != s->number)) err = -ESTALE;
    if (!err && edit) {
        int64_t base = 0;
        err = fsb_session_edit_in_(c, &row, edit, block);
        if (!err && row.upto) err = fsb_session_base_(c, row.no, &base);
        if (!err) err = fsb_session_update_(c, &row, base), ++row.revision;
    } else if (!err) err = fsb_session_change_in_(c, s, &row, ch, block);
    if (begun && !batch) err = fsb_session_sql_end_(c, err);
    if (!err) {
        fsb_session_block_free_(NULL);
        err = fsb_session_adopt_(s, &row.info);
        s->revision = row.revision, s->number = row.no;
        s->branch.inherits = (uint64_t)row.upto;
        s->doubt = err != 0;
    } else s->doubt = 1;
    if (!batch && !err) fsb_session_feed_(c, ch->count);
    if (!batch) fsb_session_sql_give_(c);
    fsb_session_block_free_(block);
    return err;
}

/* The append, in as few statements as there can be. */
static int fsb_session_append_in_(fsb_session_sql_ *c, fsb_session *s,
                                  const fsb_session_message *messages, size_t count,
                                  fsb_session_info *info)
{
    const int64_t now = fsb_session_now_();
    for (int tries = 0;; ++tries) {
        *info = s->info;
        for (size_t i = 0; i < count; ++i) {
            fsb_session_message m = messages[i];
            if (!m.time_ns) m.time_ns = now;
            fsb_session_settle_(info, &m);
        }
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_TOUCH_);
        if (st) {
            sqlite3_bind_int64(st, 1, s->number), sqlite3_bind_int64(st, 2, s->revision);
            sqlite3_bind_int64(st, 3, info->updated_ns);
            sqlite3_bind_int64(st, 4, (int64_t)info->message_count);
            sqlite3_bind_int64(st, 5, (int64_t)info->last_id);
            sqlite3_bind_int64(st, 6, (int64_t)info->bytes);
        }
        int err = s->info.cold || s->doubt ? 0 : fsb_session_sql_run_(c, st);
        if (err) return err;
        if (!s->info.cold && !s->doubt && sqlite3_changes(c->db)) break;
        if (tries > 1) return -EIO;
        /* Somebody else appended (or it is cold): catch up, and go behind that. */
        fsb_session_row_   row;
        fsb_session_block *block = fsb_session_block_new_(&s->store->desc.allocator);
        err = block ? fsb_session_sql_refresh_(c, s) : -ENOMEM;
        if (!err && s->info.cold &&
            !(err = fsb_session_find_row_(c, s->number, "", "", block, &row)) &&
            !(err = fsb_session_warm_(c, &row, block)))
            s->revision = row.revision, s->info.cold = 0;
        fsb_session_block_free_(block);
        if (err) return err;
    }
    fsb_session_info counted = s->info;
    int err = fsb_session_insert_(c, s->number, messages, count, now, &counted, &s->line);
    if (!err) err = fsb_session_sql_ints_(c, FSB_SESSION_MARK_, s->number, 0);
    return err;
}

static int fsb_session_sql_append_(fsb_session *s, const fsb_session_message *messages,
                                   size_t count, fsb_session_sql_ *batch)
{
    fsb_session_sql_ *c = batch;
    fsb_session_info  info;
    int               err = c ? 0 : fsb_session_sql_take_(s->store, &c);
    if (err) return err;
    if (!batch && (err = fsb_session_sql_begin_(c)) != 0) return fsb_session_sql_give_(c), err;
    err = fsb_session_append_in_(c, s, messages, count, &info);
    if (!batch) err = fsb_session_sql_end_(c, err);
    if (err) s->doubt = 1;
    else s->info = info, ++s->revision;
    if (!batch && !err) fsb_session_feed_(c, count);
    if (!batch) fsb_session_sql_give_(c);
    if (s->line.cap > FSB_SESSION_LINE_KEEP_) fsb_session_unbuffer_(&s->line);
    return err;
}

static int fsb_session_sql_write_(fsb_session *s, uint64_t keep_id,
                                  const fsb_session_message *messages, size_t count, size_t kept,
                                  void *batch)
{
    fsb_session_change_ ch;
    if (keep_id >= s->info.last_id)
        return fsb_session_sql_append_(s, messages + kept, count - kept, (fsb_session_sql_ *)batch);
    memset(&ch, 0, sizeof ch);
    ch.first = keep_id + 1, ch.last = UINT32_MAX, ch.strict = 1;
    ch.messages = messages + kept, ch.count = count - kept;
    return fsb_session_sql_change_(s, &ch, NULL, (fsb_session_sql_ *)batch);
}

static int fsb_session_sql_edit_(fsb_session *s, const fsb_session_message *message)
{
    fsb_session_change_ ch;
    memset(&ch, 0, sizeof ch);
    return message->id >= UINT32_MAX ? -ENOENT : fsb_session_sql_change_(s, &ch, message, NULL);
}

static int fsb_session_sql_erase_(fsb_session *s, uint64_t first, uint64_t last)
{
    fsb_session_change_ ch;
    memset(&ch, 0, sizeof ch);
    ch.first = first ? first : 1, ch.last = last < UINT32_MAX ? last : UINT32_MAX;
    return ch.first > ch.last ? 0 : fsb_session_sql_change_(s, &ch, NULL, NULL);
}

static int fsb_session_sql_describe_(fsb_session *s)
{
    fsb_session_change_ ch;
    memset(&ch, 0, sizeof ch);
    ch.describe = 1;
    return fsb_session_sql_change_(s, &ch, NULL, NULL);
}

/* Parent, branch point and all messages anew: for a rebase. */
static int fsb_session_sql_replace_(fsb_session *s, const fsb_session_message *messages,
                                    size_t count)
{
    fsb_session_change_ ch;
    memset(&ch, 0, sizeof ch);
    ch.first = 1, ch.last = UINT32_MAX, ch.strict = 1, ch.fork = 1,
    ch.inherits = s->branch.inherits;
    ch.messages = messages, ch.count = count;
    return fsb_session_sql_change_(s, &ch, NULL, NULL);
}

static int fsb_session_sql_create_(fsb_session *s, const fsb_session_message *messages,
                                   size_t count)
{
    fsb_session_sql_   *c;
    int64_t             user = 0;
    fsb_session_change_ ch;
    int                 err = fsb_session_sql_take_(s->store, &c);
    if (err) return err;
    memset(&ch, 0, sizeof ch);
    ch.describe = ch.fork = 1, ch.inherits = s->branch.inherits;
    ch.messages = messages, ch.count = count;
    if ((err = fsb_session_sql_begin_(c)) != 0) return fsb_session_sql_give_(c), err;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_ADD_USER_);
    if (st) fsb_session_bind_string_(st, 1, s->info.user);
    if (!err) err = fsb_session_sql_run_(c, st);
    st = fsb_session_statement_(c, FSB_SESSION_USER_NO_);
    if (st) fsb_session_bind_string_(st, 1, s->info.user);
    if (!err) err = fsb_session_sql_int_(c, st, &user);
    st = fsb_session_statement_(c, FSB_SESSION_CREATE_);
    if (st) {
        sqlite3_bind_int64(st, 1, user), sqlite3_bind_int64(st, 3, s->info.created_ns);
        fsb_session_bind_string_(st, 2, s->info.id);
    }
    if (!err) err = fsb_session_sql_run_(c, st);
    if (!err) err = fsb_session_sql_change_(s, &ch, NULL, c);
    err = fsb_session_sql_end_(c, err);
    if (!err) fsb_session_feed_(c, count + 1);
    fsb_session_sql_give_(c);
    return err;
}

static int fsb_session_sql_remove_(fsb_session *s)
{
    fsb_session_sql_  *c;
    fsb_session_row_   row;
    fsb_session_buf_   scratch = fsb_session_buffer_(&s->store->desc.allocator);
    fsb_session_block *block = fsb_session_block_new_(&s->store->desc.allocator);
    int                err = block ? fsb_session_sql_take_(s->store, &c) : -ENOMEM;
    if (err) return fsb_session_block_free_(block), err;
    err = fsb_session_sql_begin_(c);
    if (!err) {
        err = fsb_session_find_row_(c, 0, s->info.user, s->info.id, block, &row);
        if (!err && row.info.last_id) err = fsb_session_take_out_(c, &row, 1, UINT32_MAX, block);
        if (!err && row.indexed >= 0) err = fsb_session_index_head_(c, &row, 0, &scratch);
        if (!err) err = fsb_session_sql_ints_(c, FSB_SESSION_CLEAN_, row.no, 0);
        if (!err) err = fsb_session_sql_ints_(c, FSB_SESSION_DELETE_, row.no, 0);
        err = fsb_session_sql_end_(c, err);
    }
    fsb_session_sql_give_(c);
    fsb_session_unbuffer_(&scratch);
    fsb_session_block_free_(block);
    return err;
}

/* Keeps a session's own messages as one compressed JSON Lines text. */
static int fsb_session_sql_compress_(fsb_session *s)
{
    const fsb_allocator *mem = &s->store->desc.allocator;
    fsb_session_sql_    *c;
    fsb_session_row_     row;
    fsb_session_buf_     list = fsb_session_buffer_(mem), text = list, packed = list;
    fsb_session_block   *block = fsb_session_block_new_(mem);
    int                  err = block ? fsb_session_sql_take_(s->store, &c) : -ENOMEM;
    if (err) return fsb_session_block_free_(block), err;
    err = fsb_session_sql_begin_(c);
    if (!err) {
        err = fsb_session_find_row_(c, 0, s->info.user, s->info.id, block, &row);
        if (!err && !row.packed) {
            err =
                fsb_session_load_rows_(c, row.no, (uint64_t)row.upto + 1, UINT32_MAX, block, &list);
            const fsb_session_message *m = (const fsb_session_message *)(const void *)list.data;
            for (size_t i = 0; i < list.size / sizeof *m; ++i) {
                fsb_session_put_message_(&text, &m[i]);
                fsb_session_put_(&text, "\n", 1);
            }
            if (!err) err = text.err ? text.err : fsb_session_pack_(&text, &packed);
            sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_PACK_);
            if (st) sqlite3_bind_int64(st, 1, row.no);
            if (st) sqlite3_bind_blob64(st, 2, packed.data, packed.size, SQLITE_STATIC);
            if (!err) err = fsb_session_sql_run_(c, st);
            if (!err)
                err = fsb_session_sql_ints_(c, FSB_SESSION_DELETE_ROWS_,
                                            fsb_session_key_(row.no, 0),
                                            fsb_session_key_(row.no, UINT32_MAX));
        }
        err = fsb_session_sql_end_(c, err);
    }
    if (!err) s->doubt = 1;
    fsb_session_sql_give_(c);
    fsb_session_unbuffer_(&list), fsb_session_unbuffer_(&text), fsb_session_unbuffer_(&packed);
    fsb_session_block_free_(block);
    return err;
}

static int fsb_session_sql_begin_batch_(fsb_session_store *store, void **batch)
{
    fsb_session_sql_ *c;
    int               err = fsb_session_sql_take_(store, &c);
    if (!err && (err = fsb_session_sql_begin_(c)) != 0) fsb_session_sql_give_(c);
    if (!err) *batch = c;
    return err;
}

static int fsb_session_sql_end_batch_(fsb_session_store *store, void *batch, int commit)
{
    fsb_session_sql_ *c = (fsb_session_sql_ *)batch;
    (void)store;
    const int err = fsb_session_sql_end_(c, commit ? 0 : -ECANCELED);
    if (!err) fsb_session_feed_(c, 8);
    fsb_session_sql_give_(c);
    return commit ? err : 0;
}

static int fsb_session_sql_sync_(fsb_session_store *store)
{
    fsb_session_sql_ *c;
    int               err = store->desc.read_only ? 0 : fsb_session_sql_take_(store, &c);
    if (err || store->desc.read_only) return err;
    /* With synchronous=OFF a checkpoint would not flush: ask for it this once. */
    fsb_session_sql_exec_(c, "PRAGMA synchronous=FULL");
    const int rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_FULL, NULL, NULL);
    if (rc != SQLITE_OK) err = fsb_session_sql_fail_(c, rc);
    fsb_session_sql_exec_(c, store->desc.durability == FSB_SESSION_SYNC_NONE
                                 ? "PRAGMA synchronous=OFF"
                                 : store->desc.durability == FSB_SESSION_SYNC_SAVE
                                       ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
    fsb_session_sql_give_(c);
    return err;
}

static int fsb_session_sql_users_(fsb_session_store *store, fsb_session_buf_ *names)
{
    fsb_session_sql_ *c;
    int               got, err = fsb_session_sql_take_(store, &c);
    if (err) return err;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_USERS_);
    while ((got = fsb_session_sql_row_(c, st)) > 0) {
        const fsb_session_span name = fsb_session_column_(st, 0);
        fsb_session_put_(names, name.data, name.size);
        fsb_session_put_(names, "", 1);
    }
    fsb_session_sql_give_(c);
    return got ? got : names->err;
}

static int fsb_session_sql_user_(fsb_session_sql_ *c, const char *user, int64_t *no)
{
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_USER_NO_);
    if (st) fsb_session_bind_string_(st, 1, user);
    return fsb_session_sql_int_(c, st, no);
}

static int fsb_session_sql_list_(fsb_session_store *store, const char *user,
                                 const fsb_session_filter *f, fsb_session_block *block,
                                 fsb_session_buf_ *infos)
{
    fsb_session_sql_ *c;
    fsb_session_row_  row;
    int64_t           no, time_ns = INT64_MAX;
    const char       *id = "";
    int               got;
    if (f->cursor && fsb_session_read_cursor_(f->cursor, &time_ns, &id)) return -EINVAL;
    int err = fsb_session_sql_take_(store, &c);
    if (err) return err;
    if (!(err = fsb_session_sql_user_(c, user, &no))) {
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_LIST_);
        if (st) {
            sqlite3_bind_int64(st, 1, no), sqlite3_bind_int64(st, 2, time_ns);
            fsb_session_bind_string_(st, 3, id);
        }
        while (!err && infos->size / sizeof row.info < f->limit &&
               (got = fsb_session_sql_row_(c, st)) != 0) {
            if (got < 0) err = got;
            else if (!(err = fsb_session_read_row_(block, st, user, &row))) {
                if (f->since_ns && row.info.updated_ns < f->since_ns) break;
                if (fsb_session_passes_(&row.info, f))
                    fsb_session_put_(infos, &row.info, sizeof row.info);
            }
        }
        if (st) sqlite3_reset(st);
    }
    fsb_session_sql_give_(c);
    return err == -ENOENT ? 0 : err ? err : infos->err;
}

/* The query in FTS5's words: the same operators, each term as a string of ours. */
static void fsb_session_put_match_(fsb_session_buf_ *b, const fsb_session_match_ *m, int64_t user)
{
    static const char *const signs[] = {"", " OR ", " AND ", " NOT ", "(", ")"};
    for (int i = 0; i < m->infix_count; ++i) {
        const fsb_session_token_ t = m->infix[i];
        fsb_session_puts_(b, signs[t.sign]);
        if (t.sign != FSB_SESSION_TERM_) continue;
        const fsb_session_term_ *term = &m->terms[t.term];
        fsb_session_put_(b, "\"", 1);
        fsb_session_put_uint_(b, (uint64_t)user);
        fsb_session_put_(b, "\x1f", 1);
        fsb_session_put_(b, m->text.data + term->at, term->size);
        fsb_session_puts_(b, term->prefix ? "\" *" : "\"");
    }
    fsb_session_put_(b, "", 1);
}

/* One message by key, packed ones too: text for judging, or the whole for a hit. */
static int fsb_session_message_at_(fsb_session_sql_ *c, int64_t key, fsb_session_block *block,
                                   fsb_session_message *m)
{
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_ONE_);
    if (st) sqlite3_bind_int64(st, 1, key);
    const int got = fsb_session_sql_row_(c, st);
    if (got < 0) return got;
    if (got) {
        const int err = fsb_session_read_row_message_(block, st, m);
        sqlite3_reset(st);
        return err;
    }
    fsb_session_buf_ list = fsb_session_buffer_(&block->mem);
    const uint64_t   id = (uint64_t)key & UINT32_MAX;
    int              err = fsb_session_load_packed_(c, key >> 32, id, id, block, &list);
    if (!err && !list.size) err = -ENOENT;
    if (!err) memcpy(m, list.data, sizeof *m);
    fsb_session_unbuffer_(&list);
    return err;
}

typedef struct fsb_session_probe_ { /* what a search carries along */
    fsb_session_sql_         *c;
    int64_t                   user;
    const char               *user_name;
    const fsb_session_query  *q;
    const fsb_session_match_ *match;
    fsb_session_finds_       *finds;
    fsb_session_block        *block; /* scratch: emptied now and then */
    fsb_session_block        *kept;  /* texts of hits, so that they are not read twice; or NULL */
    fsb_session_buf_          words;
    fsb_session_row_          row;   /* of the session looked at last */
} fsb_session_probe_;

static int fsb_session_probe_block_(fsb_session_probe_ *p)
{
    if (p->block && p->block->next_cap < (size_t)1 << 18) return 0;
    fsb_session_block_free_(p->block);
    p->row.no = 0;
    p->block = fsb_session_block_new_(&p->c->store->desc.allocator);
    return p->block ? 0 : -ENOMEM;
}

static int fsb_session_probe_row_(fsb_session_probe_ *p, int64_t no)
{
    return p->row.no == no
               ? 0 : fsb_session_find_row_(p->c, no, p->user_name, "", p->block, &p->row);
}

/* The text of a message or title, and what else the filters want to know. */
static int fsb_session_probe_text_(fsb_session_probe_ *p, int64_t key, fsb_session_message *m)
{
    if (key & UINT32_MAX) return fsb_session_message_at_(p->c, key, p->block, m);
    const int err = fsb_session_probe_row_(p, key >> 32);
    if (err) return err;
    memset(m, 0, sizeof *m);
    p->words.size = 0;
    fsb_session_put_title_(&p->words, &p->row.info);
    m->content.data = fsb_session_block_copy_(p->block, p->words.data, p->words.size);
    m->content.size = p->words.size;
    m->role = "", m->time_ns = p->row.info.created_ns;
    return m->content.data ? 0 : -ENOMEM;
}

/* Judges a candidate. `surely`: the index vouches for the words. */
static int fsb_session_judge_(fsb_session_probe_ *p, int64_t key, const fsb_session_message *m,
                              int surely)
{
    const fsb_session_query *q = p->q;
    fsb_session_found_       found;
    if (q->role && strcmp(q->role, m->role) != 0) return 0;
    if (q->since_ns && m->time_ns < q->since_ns) return 0;
    if (q->until_ns && m->time_ns > q->until_ns) return 0;
    memset(&found, 0, offsetof(fsb_session_found_, counts));
    found.time_ns = m->time_ns, found.message_id = (uint64_t)key & UINT32_MAX;
    found.where = (uint64_t)key >> 32;
    if (!surely || q->order == FSB_SESSION_BEST) {
        p->words.size = 0;
        found.words = fsb_session_put_words_(&p->words, m->content);
        if (p->words.err) return -ENOMEM;
        if (!fsb_session_matches_(p->match, p->words.data, p->words.size, found.counts)) return 0;
    }
    if (p->kept && m->content.size <= FSB_SESSION_KEPT_) {
        found.text.data = fsb_session_block_copy_(p->kept, m->content.data, m->content.size);
        found.text.size = m->content.size;
        found.role = fsb_session_block_copy_(p->kept, m->role, strlen(m->role));
        if (!found.text.data || !found.role) return -ENOMEM;
    }
    return fsb_session_keep_(p->finds, &found);
}

/* Candidates from the index, newest first, until there are enough. */
static int fsb_session_probe_index_(fsb_session_probe_ *p)
{
    const fsb_session_query *q = p->q;
    fsb_session_buf_         text = fsb_session_buffer_(&p->c->store->desc.allocator);
    int                      got, err = 0;
    fsb_session_put_match_(&text, p->match, p->user);
    sqlite3_stmt *st = fsb_session_statement_(p->c, FSB_SESSION_FIND_);
    if (st) {
        fsb_session_bind_string_(st, 1, text.data);
        sqlite3_bind_int64(st, 2, q->since_ns ? q->since_ns / 1000 - 1 : INT64_MIN);
        /* Numbers of the same time are moved on; 10 s hold ten million of them. */
        sqlite3_bind_int64(st, 3, q->until_ns ? q->until_ns / 1000 + 10000000 : INT64_MAX);
    }
    err = text.err;
    while (!err && p->finds->count < p->finds->cap &&
           (got = fsb_session_sql_row_(p->c, st)) != 0) {
        const int64_t       key = got > 0 ? sqlite3_column_int64(st, 0) : 0;
        fsb_session_message m;
        if (got < 0) {
            fsb_session_unbuffer_(&text);
            return got;
        }
        if ((err = fsb_session_probe_block_(p)) != 0) break;
        if (sqlite3_column_type(st, 1) != SQLITE_NULL) { /* good until the next row: not copied */
            memset(&m, 0, sizeof m);
            m.time_ns = sqlite3_column_int64(st, 1), m.content = fsb_session_column_(st, 3);
            m.role = (const char *)sqlite3_column_text(st, 2);
        } else err = fsb_session_probe_text_(p, key, &m); /* a title, or packed */
        if (!err) err = fsb_session_judge_(p, key, &m, 1);
        if (err == -ENOENT) err = 0;
    }
    if (st) sqlite3_reset(st), sqlite3_clear_bindings(st);
    fsb_session_unbuffer_(&text);
    return err;
}

/* What still waits for the index is read as it is: so a search needs not wait for a writer. */
static int fsb_session_probe_dirty_(fsb_session_probe_ *p)
{
    sqlite3_stmt *st = fsb_session_statement_(p->c, FSB_SESSION_DIRTY_OF_);
    int           got, err = 0;
    if (st) sqlite3_bind_int64(st, 1, p->user);
    while (!err && (got = fsb_session_sql_row_(p->c, st)) != 0) {
        fsb_session_buf_    list = fsb_session_buffer_(&p->c->store->desc.allocator);
        fsb_session_message m;
        if (got < 0) return got;
        const int64_t no = sqlite3_column_int64(st, 0);
        if (!(err = fsb_session_probe_block_(p))) err = fsb_session_probe_row_(p, no);
        const fsb_session_row_ row = p->row;
        if (!err && row.indexed < 0 &&
            !(err = fsb_session_probe_text_(p, fsb_session_key_(no, 0), &m)))
            err = fsb_session_judge_(p, fsb_session_key_(no, 0), &m, 0);
        const uint64_t from = (uint64_t)(row.indexed > row.upto ? row.indexed : row.upto) + 1;
        if (!err)
            err = row.packed ? fsb_session_load_packed_(p->c, no, from, 0, p->block, &list)
                             : fsb_session_load_rows_(p->c, no, from, UINT32_MAX, p->block, &list);
        const fsb_session_message *at = (const fsb_session_message *)(const void *)list.data;
        for (size_t i = 0; !err && i < list.size / sizeof *at; ++i)
            err = fsb_session_judge_(p, fsb_session_key_(no, at[i].id), &at[i], 0);
        fsb_session_unbuffer_(&list);
        if (err == -ENOENT) err = 0;
    }
    if (st) sqlite3_reset(st);
    return err;
}

/* Of a session, only what a hit shows. */
static int fsb_session_title_of_(fsb_session_probe_ *p, int64_t no)
{
    if (p->row.no == no) return 0;
    sqlite3_stmt *st = fsb_session_statement_(p->c, FSB_SESSION_TITLE_OF_);
    if (st) sqlite3_bind_int64(st, 1, no);
    const int got = fsb_session_sql_row_(p->c, st);
    if (got < 1) return got ? got : -ENOENT;
    p->row.no = 0; /* the rest of it is not there */
    int err = fsb_session_column_string_(p->block, st, 0, &p->row.info.id);
    if (!err) err = fsb_session_column_string_(p->block, st, 1, &p->row.info.title);
    sqlite3_reset(st);
    return err;
}

static int fsb_session_probe_hits_(fsb_session_probe_ *p, fsb_session_block *block,
                                   fsb_session_hits *out)
{
    const fsb_session_query *q = p->q;
    const size_t             count = p->finds->count > q->skip ? p->finds->count - q->skip : 0;
    const size_t             keep = count < q->limit ? count : q->limit;
    fsb_session_hit *hits =
        (fsb_session_hit *)fsb_session_block_take_(block, keep * sizeof *hits + 1);
    int              err = hits ? 0 : -ENOMEM;
    out->at = hits, out->count = 0;
    for (size_t i = 0; !err && i < keep; ++i) {
        const fsb_session_found_ *found = &p->finds->at[q->skip + i];
        fsb_session_message       m;
        err = fsb_session_probe_block_(p);
        const int64_t key = fsb_session_key_((int64_t)found->where, found->message_id);
        m.role = found->role, m.content = found->text;
        if (!err && !found->role) err = fsb_session_probe_text_(p, key, &m);
        if (!err) err = fsb_session_title_of_(p, (int64_t)found->where);
        if (!err)
            err = fsb_session_put_hit_(&hits[out->count++], q, p->match, found, &p->row.info,
                                       m.role, m.content, block);
        else if (err == -ENOENT) err = 0;
    }
    return err;
}

/* Feeds the index before a search, unless somebody else writes just now. */
static int fsb_session_feed_all_(fsb_session_sql_ *c)
{
    if (c->store->desc.read_only) return 0;
    const int stale = fsb_session_index_is_stale_(c);
    int       more = stale || fsb_session_any_dirty_(c), batches = 0;
    if (!more) return 0;
    sqlite3_busy_handler(c->db, NULL, NULL);
    if (stale && (more = fsb_session_sql_begin_(c)) == 0)
        more = fsb_session_sql_end_(c, fsb_session_index_anew_(c)) ? 0 : 1;
    for (; more > 0; ++batches) more = fsb_session_index_batch_(c);
    if (more == 0 && batches > 64) /* much at once: worth one segment */
        fsb_session_sql_exec_(c, "INSERT INTO words(words) VALUES('optimize')");
    sqlite3_busy_handler(c->db, fsb_session_busy_, c);
    return more == -ENOMEM ? more : 0;
}

static int fsb_session_sql_search_(fsb_session_store *store, const char *user,
                                   const fsb_session_query *q, const fsb_session_match_ *match,
                                   fsb_session_block *block, fsb_session_hits *out)
{
    const fsb_allocator *mem = &store->desc.allocator;
    fsb_session_finds_   finds = {mem, NULL, 0, 0, 0};
    fsb_session_probe_   p;
    memset(&p, 0, sizeof p);
    finds.cap = q->order == FSB_SESSION_BEST ? (size_t)FSB_SESSION_RANKED
                                             : (size_t)q->skip + q->limit;
    int err = fsb_session_sql_take_(store, &p.c);
    if (err) return err;
    p.user_name = user, p.q = q, p.match = match, p.finds = &finds;
    if (finds.cap <= 256 && q->order != FSB_SESSION_BEST) p.kept = fsb_session_block_new_(mem);
    p.words = fsb_session_buffer_(mem);
    if (!p.c->has_words)
        err = fsb_session_fail_(store, -ENOSYS, "this SQLite has no FTS5: search is not to be had");
    else err = fsb_session_feed_all_(p.c);
    if (!err) {
        fsb_session_sql_do_(p.c, FSB_SESSION_READ_); /* all of it at one time */
        err = fsb_session_sql_user_(p.c, user, &p.user);
        if (!err) err = fsb_session_probe_index_(&p);
        if (!err) err = fsb_session_probe_dirty_(&p);
        fsb_session_order_(match, &finds, q->order);
        if (!err) err = fsb_session_probe_hits_(&p, block, out);
        if (err == -ENOENT) err = 0; /* no such user: no hits */
        fsb_session_sql_do_(p.c, FSB_SESSION_COMMIT_);
    }
    fsb_session_sql_give_(p.c);
    fsb_session_block_free_(p.block), fsb_session_block_free_(p.kept);
    fsb_session_unbuffer_(&p.words);
    fsb_session_drop_(mem, finds.at, finds.room * sizeof *finds.at);
    return err;
}

static int fsb_session_sql_put_blob_(fsb_session_store *store, const char *user, const char *hash,
                                     fsb_session_span data)
{
    fsb_session_sql_ *c;
    int64_t           no;
    int               err = fsb_session_sql_take_(store, &c);
    if (err) return err;
    if (!(err = fsb_session_sql_begin_(c))) {
        sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_ADD_USER_);
        if (st) fsb_session_bind_string_(st, 1, user);
        err = fsb_session_sql_run_(c, st);
        if (!err) err = fsb_session_sql_user_(c, user, &no);
        st = fsb_session_statement_(c, FSB_SESSION_BLOB_PUT_);
        if (!err && st) {
            sqlite3_bind_int64(st, 1, no);
            fsb_session_bind_string_(st, 2, hash);
            if (sqlite3_bind_blob64(st, 3, data.size ? data.data : "", data.size, SQLITE_STATIC))
                err = fsb_session_fail_(store, -EMSGSIZE, "an attachment of %zu bytes; SQLite "
                                        "takes %d", data.size, FSB_SESSION_SQL_MAX_);
            sqlite3_bind_int64(st, 4, fsb_session_now_() / 1000000000);
        }
        if (!err) err = fsb_session_sql_run_(c, st);
        err = fsb_session_sql_end_(c, err);
    }
    fsb_session_sql_give_(c);
    return err;
}

static int fsb_session_sql_get_blob_(fsb_session_store *store, const char *user, const char *hash,
                                     fsb_session_block *block, fsb_session_span *out)
{
    fsb_session_sql_ *c;
    int               err = fsb_session_sql_take_(store, &c);
    if (err) return err;
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_BLOB_GET_);
    if (st) fsb_session_bind_string_(st, 1, user), fsb_session_bind_string_(st, 2, hash);
    const int got = fsb_session_sql_row_(c, st);
    if (got > 0) {
        *out = fsb_session_column_(st, 0);
        out->data = fsb_session_block_copy_(block, out->data, out->size);
        sqlite3_reset(st);
        err = out->data ? 0 : -ENOMEM;
    } else err = got ? got : -ENOENT;
    fsb_session_sql_give_(c);
    return err;
}

static int fsb_session_sql_drop_blobs_(fsb_session_store *store, const char *user,
                                       const fsb_session_buf_ *keep, int64_t now_ns,
                                       uint64_t *dropped)
{
    fsb_session_sql_ *c;
    int64_t           no = 0;
    fsb_session_buf_  gone = fsb_session_buffer_(&store->desc.allocator);
    int               got = 0, err = fsb_session_sql_take_(store, &c);
    if (err) return err;
    err = fsb_session_sql_user_(c, user, &no);
    sqlite3_stmt *st = fsb_session_statement_(c, FSB_SESSION_BLOB_LIST_);
    if (!err && st)
        sqlite3_bind_int64(st, 1, no), sqlite3_bind_int64(st, 2, now_ns / 1000000000 - 3600);
    while (!err && (got = fsb_session_sql_row_(c, st)) > 0) {
        const fsb_session_span hash = fsb_session_column_(st, 0);
        if (hash.size == 64 && !(keep->size && bsearch(hash.data, keep->data, keep->size / 64, 64,
                                                       fsb_session_by_hash_)))
            fsb_session_put_(&gone, hash.data, 64);
    }
    if (!err) err = got < 0 ? got : gone.err;
    for (size_t at = 0; !err && at < gone.size; at += 64) {
        st = fsb_session_statement_(c, FSB_SESSION_BLOB_DROP_);
        if (st) sqlite3_bind_int64(st, 1, no), fsb_session_bind_(st, 2, gone.data + at, 64);
        if (st) sqlite3_bind_int64(st, 3, now_ns / 1000000000 - 3600); /* not young again? */
        err = fsb_session_sql_run_(c, st);
        if (!err) *dropped += (uint64_t)sqlite3_changes(c->db);
    }
    fsb_session_sql_give_(c);
    fsb_session_unbuffer_(&gone);
    return err == -ENOENT ? 0 : err;
}

/* SQLite's own check; then the index anew. */
static int fsb_session_sql_repair_(fsb_session_store *store, const char *user,
                                   fsb_session_repair_result *out)
{
    fsb_session_sql_ *c;
    sqlite3_stmt     *st = NULL;
    int               err = store->desc.read_only ? -EROFS : fsb_session_sql_take_(store, &c);
    if (err) return err;
    int rc = sqlite3_prepare_v2(c->db, "PRAGMA integrity_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    if (rc != SQLITE_ROW) err = fsb_session_sql_fail_(c, rc);
    else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0)
        err = fsb_session_fail_(store, -EBADMSG, "%s: %s; rescue it with: sqlite3 OLD .recover | "
                                "sqlite3 NEW", store->desc.path,
                                (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    const int words = c->has_words && !store->desc.no_search;
    if (!err && words && !(err = fsb_session_sql_begin_(c)))
        err = fsb_session_sql_end_(c, fsb_session_index_anew_(c));
    int more = !err && words;
    while (more > 0) more = fsb_session_index_batch_(c);
    if (more < 0) err = more;
    fsb_session_stat stat;
    fsb_session_sql_give_(c);
    if (!err && !(err = fsb_session_store_stat(store, user, &stat)))
        out->sessions = stat.sessions, out->messages = stat.messages;
    return err;
}

static void fsb_session_sql_shut_(fsb_session_store *store)
{
    while (store->idle) {
        fsb_session_sql_ *next = store->idle->next;
        fsb_session_sql_close_(store->idle);
        store->idle = next;
    }
}

static const fsb_session_kind_ fsb_session_sqlite_ = {
    fsb_session_sql_shut_,        fsb_session_sql_sync_,      fsb_session_sql_users_,
    fsb_session_sql_list_,        fsb_session_sql_search_,    fsb_session_sql_repair_,
    fsb_session_sql_put_blob_,    fsb_session_sql_get_blob_,  fsb_session_sql_drop_blobs_,
    fsb_session_sql_begin_batch_, fsb_session_sql_end_batch_, fsb_session_sql_open_,
    fsb_session_sql_ready_,       fsb_session_sql_release_,   fsb_session_sql_create_,
    fsb_session_sql_replace_,     fsb_session_sql_write_,     fsb_session_sql_edit_,
    fsb_session_sql_erase_,       fsb_session_sql_describe_,  fsb_session_sql_load_,
    fsb_session_sql_remove_,      fsb_session_sql_compress_};

static int fsb_session_sqlite_start_(fsb_session_store *store)
{
    fsb_session_sql_ *c;
    int               err = fsb_session_sql_connect_(store, &c);
    if (err) return err;
    store->kind = &fsb_session_sqlite_;
    if (!store->desc.read_only) {
        err = fsb_session_sql_exec_(c, "BEGIN IMMEDIATE"); /* of several makers, one makes it */
        if (!err) err = fsb_session_sql_schema_(c);
        if (!err && c->has_words && !store->desc.no_search)
            err = fsb_session_sql_exec_(c, fsb_session_schema_words_);
        err = fsb_session_sql_end_(c, err);
    } else err = fsb_session_sql_schema_(c);
    fsb_session_sql_give_(c);
    return err;
}
#else
static int fsb_session_sqlite_start_(fsb_session_store *store)
{
    fsb_session_log_(store, FSB_LOG_ERROR, "session/sqlite", "compiled without FSB_WITH_SQLITE");
    return -ENOSYS;
}
#endif /* FSB_WITH_SQLITE */

/* ---- [checks] -------------------------------------------------------------------------------- */
enum { FSB_SESSION_LONGEST_ = 900000000 }; /* bytes of a text: SQLite takes no row of over 1e9 */
/* Says in words what went wrong, unless something below said it better already. */
static int fsb_session_told_(fsb_session_store *store, int err, const char *what, const char *user,
                             const char *id)
{
    static const struct {
        int         code;
        const char *text;
    } texts[] = {{ENOENT, "there is no such session, message or attachment"},
                 {EEXIST, "there is a session of this name"},
                 {ESTALE, "somebody else changed it meanwhile; load it again"},
                 {EDQUOT, "the user's quota is used up"},
                 {ENOSPC, "the disk is full; nothing saved before is lost"},
                 {EROFS, "the store is read-only"},
                 {ENOMEM, "out of memory"},
                 {EACCES, "permission denied"},
                 {ETIMEDOUT, "another process held the database too long (busy_ms)"}};
    for (size_t i = 0; err < 0 && i < sizeof texts / sizeof texts[0]; ++i)
        if (texts[i].code == -err)
            fsb_session_fail_(store, err, "%s %s/%s: %s", what, user ? user : "", id ? id : "",
                              texts[i].text);
    return err;
}

static int fsb_session_check_name_(fsb_session_store *store, const char *what, const char *name,
                                   int as_file)
{
    const size_t n = name ? strlen(name) : 0;
    if (!n) return fsb_session_fail_(store, -EINVAL, "%s: it must not be empty", what);
    if (n > FSB_SESSION_NAME_MAX)
        return fsb_session_fail_(store, -ENAMETOOLONG, "%s: %zu bytes, at most %d are allowed",
                                 what, n, (int)FSB_SESSION_NAME_MAX);
    unsigned bad = as_file && (name[0] == '.' || strchr(name, '/')), high = 0;
    for (size_t i = 0; i < n; ++i) {
        bad |= (unsigned char)name[i] < 0x20 || name[i] == 0x7f;
        high |= (unsigned char)name[i] & 0x80u;
    }
    if (high) bad |= !fsb_session_is_utf8_(name, n);
    return bad ? fsb_session_fail_(store, -EINVAL, "%s: only UTF-8 without control characters%s",
                                   what, as_file ? ", '/', or a '.' in front" : "") : 0;
}

static int fsb_session_check_json_(fsb_session_store *store, const char *what,
                                   fsb_session_span json)
{
    if (json.size > FSB_SESSION_LONGEST_)
        return fsb_session_fail_(store, -EMSGSIZE, "%s has over 900 MB", what);
    if (!json.size || fsb_session_is_json_(json, FSB_SESSION_METADATA_DEPTH_)) return 0;
    return fsb_session_fail_(store, -EILSEQ, "%s is not JSON (or nested over %d deep)", what,
                             (int)FSB_SESSION_METADATA_DEPTH_);
}

static int fsb_session_check_info_(fsb_session_store *store, const fsb_session_info *info)
{
    int err = info->title && !fsb_session_is_utf8_(info->title, strlen(info->title))
            ? fsb_session_fail_(store, -EINVAL, "the title is not UTF-8") : 0;
    for (size_t i = 0; !err && i < info->tag_count; ++i)
        err = fsb_session_check_name_(store, "a tag", info->tags[i], 0);
    if (!err) err = fsb_session_check_json_(store, "config", info->config);
    return err ? err : fsb_session_check_json_(store, "metadata", info->metadata);
}

static int fsb_session_check_message_(fsb_session_store *store, const fsb_session_message *m)
{
    int err = fsb_session_check_name_(store, "a role", m->role, 0);
    if (err) return err;
    if (m->content.size > store->desc.max_message)
        return fsb_session_fail_(store, -EMSGSIZE, "a message of %zu bytes; max_message is %llu",
                                 m->content.size, (unsigned long long)store->desc.max_message);
    if (m->metadata.size && (err = fsb_session_check_json_(store, "metadata", m->metadata)) != 0)
        return err;
    for (size_t i = 0; i < m->attachment_count; ++i) {
        const fsb_session_attachment *a = &m->attachments[i];
        const size_t                  n = a->hash ? strlen(a->hash) : 0;
        if (!a->data.size && !(a->uri && a->uri[0]) &&
            (n != 64 || strspn(a->hash, "0123456789abcdef") != n))
            return fsb_session_fail_(store, -EINVAL, "an attachment without data, uri or hash");
    }
    return 0;
}

/* Everything that could be wrong is found before anything is written. Attachments that bring data
   are stored, and *messages becomes a copy with their hashes, in *block. */
static int fsb_session_prepare_(fsb_session *s, const fsb_session_message **messages, size_t count,
                                fsb_session_block **block)
{
    int with_data = 0, err = 0;
    for (size_t i = 0; !err && i < count; ++i) {
        const fsb_session_message *m = &(*messages)[i];
        err = fsb_session_check_message_(s->store, m);
        for (size_t k = 0; k < m->attachment_count; ++k)
            with_data |= m->attachments[k].data.size != 0 ||
                         (m->attachments[k].data.data &&
                          !(m->attachments[k].uri && m->attachments[k].uri[0]));
    }
    if (err || !with_data) return err;
    if (s->store->desc.read_only) return -EROFS;
    *block = fsb_session_block_new_(&s->store->desc.allocator);
    fsb_session_message *copy = !*block ? NULL : (fsb_session_message *)fsb_session_block_take_(
                                                     *block, count * sizeof *copy);
    for (size_t i = 0; copy && !err && i < count; ++i) {
        const size_t n = (*messages)[i].attachment_count;
        fsb_session_attachment *a =
            (fsb_session_attachment *)fsb_session_block_take_(*block, n * sizeof *a + 1);
        if (!a) return -ENOMEM;
        copy[i] = (*messages)[i], copy[i].attachments = a;
        for (size_t k = 0; !err && k < n; ++k) {
            char hash[65];
            a[k] = (*messages)[i].attachments[k];
            if (!a[k].data.size) continue;
            fsb_session_sha256_(a[k].data, hash);
            err = s->store->kind->put_blob(s->store, s->info.user, hash, a[k].data);
            a[k].size = a[k].data.size, a[k].data.data = NULL, a[k].data.size = 0;
            if (!(a[k].hash = fsb_session_block_copy_(*block, hash, 64))) err = -ENOMEM;
        }
    }
    *messages = copy;
    return copy ? err : -ENOMEM;
}

static int fsb_session_infos_(fsb_session_store *store, const char *user, fsb_session_block **block,
                              fsb_session_buf_ *infos)
{
    fsb_session_filter all;
    memset(&all, 0, sizeof all);
    all.limit = UINT32_MAX;
    *infos = fsb_session_buffer_(&store->desc.allocator);
    *block = fsb_session_block_new_(&store->desc.allocator);
    const int err = *block ? store->kind->list(store, user, &all, *block, infos) : -ENOMEM;
    if (err) fsb_session_unbuffer_(infos), fsb_session_block_free_(*block);
    return err;
}

/* May this user have that much more? Counted anew each time, so only where a quota is set. */
static int fsb_session_quota_(fsb_session_store *store, const char *user, uint64_t bytes,
                              uint64_t sessions)
{
    fsb_session_stat stat;
    if (store->desc.user_bytes == FSB_UNLIMITED && store->desc.user_sessions == FSB_UNLIMITED)
        return 0;
    const int err = fsb_session_store_stat(store, user, &stat);
    if (err) return err;
    return stat.bytes + bytes > store->desc.user_bytes ||
           stat.sessions + sessions > store->desc.user_sessions ? -EDQUOT : 0;
}

static int fsb_session_quota_for_(fsb_session *s, const fsb_session_message *messages, size_t count)
{
    uint64_t bytes = 0;
    if (s->store->desc.user_bytes == FSB_UNLIMITED) return 0;
    for (size_t i = 0; i < count; ++i) bytes += fsb_session_weight_(&messages[i]);
    return fsb_session_quota_(s->store, s->info.user, bytes, 0);
}

/* ---- [saving] -------------------------------------------------------------------------------- */
static uint64_t fsb_session_roll_(uint64_t hash, const fsb_session_message *m)
{
    hash = fsb_session_hash_(hash, m->role, strlen(m->role));
    hash = fsb_session_hash_(hash, m->content.data, m->content.size);
    if (m->metadata.size) hash = fsb_session_hash_(hash, m->metadata.data, m->metadata.size);
    for (size_t i = 0; i < m->attachment_count; ++i) {
        const fsb_session_attachment *a = &m->attachments[i];
        const char *const             texts[4] = {a->name, a->type, a->uri, a->hash};
        for (int k = 0; k < 4; ++k)
            hash = fsb_session_hash_(hash, texts[k], texts[k] ? strlen(texts[k]) : 0);
    }
    return hash;
}

static void fsb_session_note_message_(fsb_session *s, const fsb_session_message *m)
{
    const fsb_session_note_ *last = (const fsb_session_note_ *)(const void *)s->notes.data;
    const size_t             count = s->notes.size / sizeof *last;
    const uint64_t hash = fsb_session_roll_(count ? last[count - 1].hash : s->store->seed, m);
    const fsb_session_note_  note = {m->id, hash, m->time_ns};
    fsb_session_put_(&s->notes, &note, sizeof note);
}

/* Notes of all that is stored: read once, then kept. */
static int fsb_session_take_notes_(fsb_session *s)
{
    fsb_session_block   *block;
    fsb_session_messages all;
    if (s->has_notes) return 0;
    s->notes.size = 0;
    if (s->info.message_count || s->doubt) {
        const int err = fsb_session_all_(s, &block, &all);
        if (err) return err;
        for (size_t i = 0; i < all.count; ++i) fsb_session_note_message_(s, &all.at[i]);
        fsb_session_block_free_(block);
    }
    if (s->notes.err) return fsb_session_unbuffer_(&s->notes), -ENOMEM;
    s->has_notes = 1;
    return 0;
}

/* Copies messages with the ids and times that they have, or will get, behind what is kept. */
static void fsb_session_settled_(fsb_session *s, fsb_session_message *to,
                                 const fsb_session_message *from, size_t first, size_t count)
{
    const fsb_session_note_ *note = (const fsb_session_note_ *)(const void *)s->notes.data;
    const size_t             known = s->notes.size / sizeof *note;
    const int64_t            now = fsb_session_now_();
    uint64_t                 last = first ? note[first - 1].id : 0;
    for (size_t i = first; i < count; ++i, ++to) {
        *to = from[i];
        if (!to->id && i < known) to->id = note[i].id;
        if (to->id <= last) to->id = last + 1;
        if (!to->time_ns) to->time_ns = i < known ? note[i].time_ns : now;
        last = to->id;
    }
}

static int fsb_session_save_in_(fsb_session *s, const fsb_session_message *messages, size_t count,
                                void *batch)
{
    fsb_session_message few[4];
    int err = s->doubt ? s->store->kind->ready(s) : 0;
    if (!err) err = s->behind ? -ESTALE : fsb_session_take_notes_(s);
    if (err) return err;
    const fsb_session_note_ *note = (const fsb_session_note_ *)(const void *)s->notes.data;
    const size_t             known = s->notes.size / sizeof *note;
    size_t                   same = 0;
    uint64_t                 hash = s->store->seed;
    while (same < known && same < count &&
           (hash = fsb_session_roll_(hash, &messages[same])) == note[same].hash)
        ++same;
    if (same == known && same == count) return 0;
    if ((err = fsb_session_quota_for_(s, messages + same, count - same)) != 0) return err;
    const uint64_t       keep_id = same ? note[same - 1].id : 0;
    const size_t         first = same == known ? same : 0; /* a rewrite wants them all */
    const fsb_allocator *mem = &s->store->desc.allocator;
    const size_t         bytes = (count - first) * sizeof *few;
    fsb_session_message *list = few;
    if (bytes > sizeof few && !(list = (fsb_session_message *)fsb_session_take_(mem, bytes)))
        return -ENOMEM;
    fsb_session_settled_(s, list, messages, first, count);
    err = s->store->kind->write(s, same == known ? s->info.last_id : keep_id, list, count - first,
                                same - first, batch);
    if (!err && s->has_notes && !s->behind) {
        s->notes.size = same * sizeof *note;
        for (size_t i = same - first; i < count - first; ++i)
            fsb_session_note_message_(s, &list[i]);
        if (s->notes.err || (count > same && list[count - first - 1].id != s->info.last_id))
            s->has_notes = 0, s->notes.err = 0;
    }
    if (list != few) fsb_session_drop_(mem, list, bytes);
    return err;
}

/* ---- [exchange] ------------------------------------------------------------------------------ */
static void fsb_session_put_markdown_(fsb_session_buf_ *b, const fsb_session *s,
                                      const fsb_session_messages *all)
{
    char time[FSB_SESSION_TIME_ + 1];
    fsb_session_puts_(b, "# ");
    fsb_session_put_line_(b, s->info.title[0] ? s->info.title : s->info.id,
                          strlen(s->info.title[0] ? s->info.title : s->info.id));
    fsb_session_puts_(b, "\n");
    for (size_t i = 0; i < s->info.tag_count; ++i) {
        fsb_session_puts_(b, i ? ", " : "\nTags: ");
        fsb_session_puts_(b, s->info.tags[i]);
    }
    if (s->info.tag_count) fsb_session_puts_(b, "\n");
    for (size_t i = 0; i < all->count; ++i) {
        const fsb_session_message *m = &all->at[i];
        fsb_session_time_text_(m->time_ns, time);
        fsb_session_puts_(b, "\n## ");
        fsb_session_puts_(b, m->role);
        fsb_session_puts_(b, ", ");
        fsb_session_put_(b, time, 19);
        fsb_session_puts_(b, "Z\n\n");
        fsb_session_put_(b, m->content.data, m->content.size);
        fsb_session_puts_(b, "\n");
        for (size_t k = 0; k < m->attachment_count; ++k) {
            const fsb_session_attachment *a = &m->attachments[k];
            fsb_session_puts_(b, "\n[");
            fsb_session_puts_(b, a->name[0] ? a->name : "attachment");
            fsb_session_puts_(b, a->uri[0] ? "](" : "](sha256:");
            fsb_session_puts_(b, a->uri[0] ? a->uri : a->hash);
            fsb_session_puts_(b, ")\n");
        }
    }
}

static void fsb_session_put_export_(fsb_session_buf_ *b, const fsb_session *s, int json,
                                    const fsb_session_messages *all)
{
    const fsb_session_branch_ none = {0, 0, 0};
    fsb_session_put_(b, "{", 1);
    fsb_session_put_info_(b, &s->info, &none);
    fsb_session_puts_(b, json ? ",\"messages\":[\n" : "}\n");
    for (size_t i = 0; i < all->count; ++i) {
        fsb_session_put_message_(b, &all->at[i]);
        fsb_session_puts_(b, json && i + 1 < all->count ? ",\n" : "\n");
    }
    if (json) fsb_session_puts_(b, "]}\n");
}

/* Reads {..., "messages": [...]}: one valid JSON object. */
static int fsb_session_read_document_(fsb_session_block *block, fsb_session_span text,
                                      fsb_session_walk_ *w, fsb_session_buf_ *list)
{
    fsb_session_json_   j, each;
    fsb_session_message m;
    int                 err = fsb_session_read_info_(block, text, &w->info, &w->branch);
    fsb_session_enter_(&j, text);
    while (!err && fsb_session_member_(&j)) {
        if (!fsb_session_key_is_(&j, "messages") || !fsb_session_enter_(&each, j.value)) continue;
        while (!err && fsb_session_member_(&each)) {
            ++w->line;
            if (*each.value.data != '{') err = -EBADMSG;
            else if (!(err = fsb_session_read_message_(block, each.value, &m))) {
                fsb_session_settle_(&w->info, &m);
                fsb_session_put_(list, &m, sizeof m);
                err = list->err;
            }
        }
    }
    return err;
}

static int fsb_session_read_import_(fsb_session_block *block, fsb_session_span text,
                                    fsb_session_walk_ *w, fsb_session_buf_ *list)
{
    fsb_session_line_kind_ kind = FSB_SESSION_BAD_LINE_;
    fsb_session_message    m;
    fsb_session_walk_begin_(w, NULL, NULL, text.size);
    w->info.created_ns = w->info.updated_ns = fsb_session_now_(); /* unless the text knows better */
    if (fsb_session_is_json_(text, FSB_SESSION_JSON_DEPTH_) && text.data[text.size - 1] != ']')
        return fsb_session_read_document_(block, text, w, list);
    char *whole = NULL; /* the last line may lack its line feed here */
    if (text.size && text.data[text.size - 1] != '\n') {
        if (!(whole = fsb_session_block_copy_(block, text.data, text.size))) return -ENOMEM;
        whole[text.size] = '\n';
        text.data = whole, ++w->size;
    }
    int err = 0;
    while (!err && kind != FSB_SESSION_BLANK_LINE_) {
        err = fsb_session_step_(w, block, text.data, &m, &kind);
        if (!err && kind == FSB_SESSION_BAD_LINE_) return -EBADMSG;
        if (!err && kind == FSB_SESSION_MESSAGE_LINE_) fsb_session_put_(list, &m, sizeof m);
    }
    return err ? err : list->err;
}

/* Makes a session from an info and messages that were read; *out gets it open. */
static int fsb_session_make_(fsb_session **out, fsb_session_store *store, const char *user,
                             const char *id, const fsb_session_info *info, uint64_t inherits,
                             const fsb_session_message *messages, size_t count)
{
    unsigned char random[10];
    char          made[2 * sizeof random + 1];
    fsb_session  *s;
    uint64_t      bytes = 0;
    if (!id || !id[0]) {
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) return -EIO;
        for (size_t i = 0; i < sizeof random; ++i)
            made[2 * i] = "0123456789abcdef"[random[i] >> 4],
            made[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
        made[2 * sizeof random] = '\0';
        id = made;
    }
    int err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err) err = fsb_session_check_name_(store, "the session's id", id, 1);
    if (!err && info->parent && info->parent[0])
        err = fsb_session_check_name_(store, "the parent's id", info->parent, 1);
    if (!err) err = fsb_session_check_info_(store, info);
    for (size_t i = 0; !err && i < count; ++i) bytes += fsb_session_weight_(&messages[i]);
    if (!err) err = store->desc.read_only ? -EROFS : fsb_session_quota_(store, user, bytes, 1);
    if (!err) err = fsb_session_new_(&s, store, user, id);
    if (err) return err;
    fsb_session_info wanted = *info;
    wanted.user = s->info.user, wanted.id = s->info.id;
    wanted.message_count = wanted.last_id = wanted.bytes = wanted.depth = wanted.cold = 0;
    if (!wanted.created_ns) wanted.created_ns = fsb_session_now_();
    if (wanted.updated_ns < wanted.created_ns && !count) wanted.updated_ns = wanted.created_ns;
    if (!wanted.updated_ns) wanted.updated_ns = wanted.created_ns;
    err = fsb_session_adopt_(s, &wanted);
    fsb_session_block *block = NULL;
    if (!err && count) err = fsb_session_prepare_(s, &messages, count, &block);
    s->branch.inherits = inherits;
    if (!err) err = store->kind->create(s, messages, count);
    fsb_session_block_free_(block);
    if (err) fsb_session_discard_(s);
    else if (out) *out = s;
    else fsb_session_close(s);
    return err;
}

/* Does the parent in the other store begin with the same messages? Then a copy may share them. */
static int fsb_session_shares_(fsb_session_store *to, const fsb_session *from,
                               const fsb_session_messages *all)
{
    fsb_session         *parent = NULL;
    fsb_session_block   *block = NULL;
    fsb_session_messages theirs;
    size_t               same = 0, want = 0;
    if (!from->branch.inherits || fsb_session_new_(&parent, to, from->info.user, from->info.parent))
        return 0;
    while (want < all->count && all->at[want].id <= from->branch.inherits) ++want;
    if (to->kind->open(parent) == 0 && fsb_session_all_(parent, &block, &theirs) == 0) {
        while (same < want && same < theirs.count && theirs.at[same].id == all->at[same].id &&
               theirs.at[same].time_ns == all->at[same].time_ns &&
               fsb_session_roll_(1, &theirs.at[same]) == fsb_session_roll_(1, &all->at[same]))
            ++same;
        fsb_session_block_free_(block);
    }
    fsb_session_discard_(parent);
    return want > 0 && same == want;
}

/* Brings the stored attachments of these messages over. */
static int fsb_session_copy_blobs_(fsb_session_store *to, fsb_session_store *from, const char *user,
                                   const fsb_session_messages *all)
{
    int err = 0;
    for (size_t i = 0; !err && i < all->count; ++i) {
        for (size_t k = 0; !err && k < all->at[i].attachment_count; ++k) {
            const char       *hash = all->at[i].attachments[k].hash;
            fsb_session_bytes blob;
            if (!hash[0]) continue;
            err = fsb_session_blob(from, user, hash, &blob);
            if (err == -ENOENT) { /* it was lost before: the reference stays */
                err = 0;
                continue;
            }
            if (err) break;
            err = to->kind->put_blob(to, user, hash, blob.span);
            fsb_session_free(blob.block);
        }
    }
    return err;
}

/* ---- [public] -------------------------------------------------------------------------------- */
FSB_API void fsb_session_free(fsb_session_block *block)
{
    fsb_session_block_free_(block);
}

static int fsb_session_check_desc_(fsb_session_store_desc *d)
{
    if (!d->path || !d->path[0] || d->kind < 0 || d->kind > FSB_SESSION_SQLITE) return -EINVAL;
    if (d->durability < 0 || d->durability > FSB_SESSION_SYNC_SAVE) return -EINVAL;
    if (d->hot_sessions < -1 || d->hot_sessions > 1000) return -EINVAL;
    if (d->max_message > FSB_SESSION_LONGEST_ || d->expire_ms < 0 || d->cold_ms < 0) return -EINVAL;
    if (!d->hot_sessions) d->hot_sessions = 16;
    if (!d->busy_ms) d->busy_ms = 10000;
    if (!d->max_message) d->max_message = 256 << 20;
    if (!d->user_bytes) d->user_bytes = FSB_UNLIMITED;
    if (!d->user_sessions) d->user_sessions = FSB_UNLIMITED;
    if (!d->allocator.fn) d->allocator.fn = fsb_session_libc_;
    return 0;
}

FSB_API int fsb_session_store_open(fsb_session_store **out, const fsb_session_store_desc *desc)
{
    fsb_session_store_desc d;
    if (!out || !desc) return -EINVAL;
    d = *desc;
    int err = fsb_session_check_desc_(&d);
    if (err) return err;
    fsb_session_store *store = (fsb_session_store *)fsb_session_take_(&d.allocator, sizeof *store);
    if (!store) return -ENOMEM;
    store->desc = d, store->fd = -1;
    pthread_mutex_init(&store->lock, NULL);
    if (getrandom(&store->seed, sizeof store->seed, 0) != (ssize_t)sizeof store->seed)
        store->seed = (uint64_t)fsb_session_now_();
    store->names = fsb_session_block_new_(&d.allocator);
    if (store->names)
        store->desc.path = fsb_session_block_copy_(store->names, d.path, strlen(d.path));
    if (!store->names || !store->desc.path) err = -ENOMEM;
    else err = d.kind == FSB_SESSION_SQLITE ? fsb_session_sqlite_start_(store)
                                            : fsb_session_files_start_(store);
    if (err) {
        if (store->error[0])
            fsb_session_log_(store, FSB_LOG_ERROR, "session/open", "%s", store->error);
        fsb_session_store_close(store);
    } else *out = store;
    return err;
}

FSB_API void fsb_session_store_close(fsb_session_store *store)
{
    if (!store) return;
    while (store->hot) {
        fsb_session *next = store->hot->next;
        fsb_session_discard_(store->hot);
        store->hot = next;
    }
    if (store->kind) store->kind->close(store);
    fsb_session_block_free_(store->names);
    pthread_mutex_destroy(&store->lock);
    const fsb_allocator mem = store->desc.allocator;
    fsb_session_drop_(&mem, store, sizeof *store);
}

FSB_API void fsb_session_store_errmsg(fsb_session_store *store, char *buf, size_t size)
{
    if (!size) return;
    pthread_mutex_lock(&store->lock);
    const size_t n = strlen(store->error) < size ? strlen(store->error) : size - 1;
    memcpy(buf, store->error, n);
    buf[n] = '\0';
    pthread_mutex_unlock(&store->lock);
}

FSB_API int fsb_session_store_sync(fsb_session_store *store)
{
    return fsb_session_told_(store, store->kind->sync(store), "sync", "", "");
}

FSB_API int fsb_session_store_stat(fsb_session_store *store, const char *user,
                                   fsb_session_stat *out)
{
    fsb_session_block *block;
    fsb_session_buf_   infos;
    fsb_session_stat   stat;
    int                err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err) err = fsb_session_infos_(store, user, &block, &infos);
    if (err) return fsb_session_told_(store, err, "stat", user, "");
    memset(&stat, 0, sizeof stat);
    const fsb_session_info *at = (const fsb_session_info *)(const void *)infos.data;
    for (size_t i = 0; i < infos.size / sizeof *at; ++i) {
        ++stat.sessions, stat.messages += at[i].message_count, stat.bytes += at[i].bytes;
        stat.cold += at[i].cold;
    }
    fsb_session_unbuffer_(&infos);
    fsb_session_block_free_(block);
    *out = stat;
    return 0;
}

static int fsb_session_by_text_(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

FSB_API int fsb_session_store_users(fsb_session_store *store, fsb_session_users *out)
{
    fsb_session_buf_   names = fsb_session_buffer_(&store->desc.allocator);
    fsb_session_block *block = fsb_session_block_new_(&store->desc.allocator);
    int                err = block ? store->kind->users(store, &names) : -ENOMEM;
    size_t             count = 0;
    for (size_t i = 0; i < names.size; ++i) count += names.data[i] == '\0';
    const char **at = err ? NULL
                          : (const char **)fsb_session_block_take_(block, (count + 1) * sizeof *at);
    const char  *text = err ? NULL : fsb_session_block_copy_(block, names.data, names.size);
    if (!err && (!at || !text)) err = -ENOMEM;
    for (size_t i = 0; !err && i < count; ++i, text += strlen(text) + 1) at[i] = text;
    fsb_session_unbuffer_(&names);
    if (err) return fsb_session_block_free_(block), fsb_session_told_(store, err, "users", "", "");
    if (count) qsort(at, count, sizeof *at, fsb_session_by_text_);
    out->at = at, out->count = count, out->block = block;
    return 0;
}

/* The hashes that a session's messages name. */
static int fsb_session_hashes_(fsb_session *s, fsb_session_buf_ *keep)
{
    fsb_session_block   *block;
    fsb_session_messages all;
    const int            err = fsb_session_all_(s, &block, &all);
    if (err) return err;
    for (size_t i = 0; i < all.count; ++i)
        for (size_t k = 0; k < all.at[i].attachment_count; ++k)
            if (strlen(all.at[i].attachments[k].hash) == 64)
                fsb_session_put_(keep, all.at[i].attachments[k].hash, 64);
    fsb_session_block_free_(block);
    return keep->err;
}

static int fsb_session_sweep_one_(fsb_session_store *store, const fsb_session_info *info,
                                  int64_t now, fsb_session_sweep_result *result,
                                  fsb_session_buf_ *keep)
{
    const int64_t idle_ms = (now - info->updated_ns) / 1000000;
    fsb_session  *s;
    if (store->desc.expire_ms && idle_ms >= store->desc.expire_ms) {
        const int err = fsb_session_delete(store, info->user, info->id);
        if (!err) ++result->expired;
        return err == -ENOENT ? 0 : err;
    }
    int err = fsb_session_open(&s, store, info->user, info->id);
    if (err) return err == -ENOENT ? 0 : err;
    if (store->desc.cold_ms && idle_ms >= store->desc.cold_ms && !s->info.cold) {
        err = store->kind->compress(s);
        if (!err) ++result->compressed;
        if (err == -ESTALE) err = 0; /* in use after all */
    }
    if (!err) err = fsb_session_hashes_(s, keep);
    fsb_session_discard_(s);
    return err;
}

FSB_API int fsb_session_store_sweep(fsb_session_store *store, const char *user, int64_t now_ns,
                                    fsb_session_sweep_result *out)
{
    fsb_session_sweep_result result = {0, 0, 0};
    fsb_session_block       *block;
    fsb_session_buf_         infos, keep = fsb_session_buffer_(&store->desc.allocator);
    int                      err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err && store->desc.read_only) err = -EROFS;
    if (!err) err = fsb_session_infos_(store, user, &block, &infos);
    if (err) return fsb_session_told_(store, err, "sweep", user, "");
    if (!now_ns) now_ns = fsb_session_now_();
    const fsb_session_info *at = (const fsb_session_info *)(const void *)infos.data;
    for (size_t i = 0; !err && i < infos.size / sizeof *at; ++i)
        err = fsb_session_sweep_one_(store, &at[i], now_ns, &result, &keep);
    if (keep.size) qsort(keep.data, keep.size / 64, 64, fsb_session_by_hash_);
    if (!err) err = store->kind->drop_blobs(store, user, &keep, now_ns, &result.blobs_removed);
    fsb_session_unbuffer_(&infos), fsb_session_unbuffer_(&keep);
    fsb_session_block_free_(block);
    if (!err && out) *out = result;
    return fsb_session_told_(store, err, "sweep", user, "");
}

FSB_API int fsb_session_store_repair(fsb_session_store *store, const char *user,
                                     fsb_session_repair_result *out)
{
    fsb_session_repair_result result = {0, 0, 0, 0};
    int                       err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err) err = store->kind->repair(store, user, &result);
    if (!err && out) *out = result;
    return fsb_session_told_(store, err, "repair", user, "");
}

FSB_API int fsb_session_create(fsb_session **out, fsb_session_store *store,
                               const fsb_session_info *info)
{
    fsb_session_info wanted = *info;
    wanted.parent = "", wanted.fork_id = 0, wanted.updated_ns = 0;
    return fsb_session_told_(store, fsb_session_make_(out, store, info->user, info->id, &wanted, 0,
                                                      NULL, 0), "create", info->user, info->id);
}

static fsb_session *fsb_session_take_hot_(fsb_session_store *store, const char *user,
                                          const char *id)
{
    pthread_mutex_lock(&store->lock);
    fsb_session **link = &store->hot, *s;
    while ((s = *link) != NULL && (strcmp(s->info.id, id) != 0 || strcmp(s->info.user, user) != 0))
        link = &s->next;
    if (s) *link = s->next, --store->hot_count;
    pthread_mutex_unlock(&store->lock);
    return s;
}

FSB_API int fsb_session_open(fsb_session **out, fsb_session_store *store, const char *user,
                             const char *id)
{
    int err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err) err = fsb_session_check_name_(store, "the session's id", id, 1);
    if (err) return err;
    fsb_session *s = fsb_session_take_hot_(store, user, id);
    if (!s) err = fsb_session_new_(&s, store, user, id);
    if (!err && (err = store->kind->open(s)) != 0) fsb_session_discard_(s);
    if (!err) *out = s, s->behind = 0;
    return fsb_session_told_(store, err, "open", user, id);
}

FSB_API void fsb_session_close(fsb_session *s)
{
    if (!s) return;
    fsb_session_store *store = s->store;
    fsb_session       *old = s;
    fsb_session_unbuffer_(&s->notes);
    s->has_notes = 0;
    if (s->fd >= 0 && s->mtime_ns && store->desc.durability == FSB_SESSION_SYNC_CHECKPOINT)
        fdatasync(s->fd), s->mtime_ns = 0;
    if (store->desc.hot_sessions > 0 && !s->doubt) {
        pthread_mutex_lock(&store->lock);
        s->next = store->hot;
        store->hot = s;
        old = NULL;
        if (++store->hot_count > store->desc.hot_sessions) { /* the one closed longest ago */
            fsb_session **link = &store->hot;
            while ((*link)->next) link = &(*link)->next;
            old = *link;
            *link = NULL;
            --store->hot_count;
        }
        pthread_mutex_unlock(&store->lock);
    }
    if (old) fsb_session_discard_(old);
}

FSB_API const fsb_session_info *fsb_session_about(fsb_session *session)
{
    return &session->info;
}

FSB_API int fsb_session_set(fsb_session *s, const fsb_session_info *info, unsigned fields)
{
    fsb_session_info wanted = s->info;
    if (fields & FSB_SESSION_TITLE) wanted.title = info->title;
    if (fields & FSB_SESSION_TAGS) wanted.tags = info->tags, wanted.tag_count = info->tag_count;
    if (fields & FSB_SESSION_CONFIG) wanted.config = info->config;
    if (fields & FSB_SESSION_METADATA) wanted.metadata = info->metadata;
    int err = fields > 15 ? -EINVAL : fsb_session_check_info_(s->store, &wanted);
    if (!err && s->store->desc.read_only) err = -EROFS;
    if (!err) err = s->store->kind->ready(s);
    if (err) return fsb_session_told_(s->store, err, "set", s->info.user, s->info.id);
    /* ready() may have found another state: only what was asked for is changed in it. */
    const fsb_session_info asked = wanted;
    wanted = s->info;
    if (fields & FSB_SESSION_TITLE) wanted.title = asked.title;
    if (fields & FSB_SESSION_TAGS) wanted.tags = asked.tags, wanted.tag_count = asked.tag_count;
    if (fields & FSB_SESSION_CONFIG) wanted.config = asked.config;
    if (fields & FSB_SESSION_METADATA) wanted.metadata = asked.metadata;
    const int64_t now = fsb_session_now_();
    if (wanted.updated_ns < now) wanted.updated_ns = now;
    err = fsb_session_adopt_(s, &wanted);
    if (!err) err = s->store->kind->describe(s);
    if (err) s->doubt = 1;
    return fsb_session_told_(s->store, err, "set", s->info.user, s->info.id);
}

FSB_API int fsb_session_tag(fsb_session *s, const char *tag, int on)
{
    fsb_session_info wanted;
    fsb_session_buf_ tags = fsb_session_buffer_(&s->store->desc.allocator);
    int              had = 0;
    memset(&wanted, 0, sizeof wanted);
    int err = fsb_session_check_name_(s->store, "a tag", tag, 0);
    if (!err) err = s->store->kind->ready(s);
    for (size_t i = 0; !err && i < s->info.tag_count; ++i) {
        const int same = strcmp(s->info.tags[i], tag) == 0;
        had |= same;
        if (!same || on) fsb_session_put_(&tags, &s->info.tags[i], sizeof s->info.tags[i]);
    }
    if (!had && on) fsb_session_put_(&tags, &tag, sizeof tag);
    if (!err) err = tags.err;
    wanted.tags = (const char *const *)(const void *)tags.data;
    wanted.tag_count = tags.size / sizeof tag;
    if (!err && had != (on != 0)) err = fsb_session_set(s, &wanted, FSB_SESSION_TAGS);
    fsb_session_unbuffer_(&tags);
    return fsb_session_told_(s->store, err, "tag", s->info.user, s->info.id);
}

FSB_API int fsb_session_delete(fsb_session_store *store, const char *user, const char *id)
{
    fsb_session *s;
    int          err = store->desc.read_only ? -EROFS : fsb_session_open(&s, store, user, id);
    if (!err) {
        err = store->kind->remove(s);
        fsb_session_discard_(s);
    }
    return fsb_session_told_(store, err, "delete", user, id);
}

FSB_API int fsb_session_append(fsb_session *s, const fsb_session_message *messages, size_t count)
{
    fsb_session_block *block = NULL;
    int                err = s->store->desc.read_only ? -EROFS : 0;
    if (!count) return err;
    if (!err) err = fsb_session_prepare_(s, &messages, count, &block);
    if (!err) err = fsb_session_quota_for_(s, messages, count);
    if (!err) err = s->store->kind->ready(s);
    const int had_notes = s->has_notes;
    s->has_notes = 0; /* they would have to grow with every append */
    if (!err) err = s->store->kind->write(s, s->info.last_id, messages, count, 0, NULL);
    if (had_notes) fsb_session_unbuffer_(&s->notes);
    fsb_session_block_free_(block);
    return fsb_session_told_(s->store, err, "append", s->info.user, s->info.id);
}

FSB_API int fsb_session_save(fsb_session *s, const fsb_session_message *messages, size_t count)
{
    fsb_session_block *block = NULL;
    int                err = s->store->desc.read_only ? -EROFS : 0;
    if (!err) err = fsb_session_prepare_(s, &messages, count, &block);
    if (!err) err = fsb_session_save_in_(s, messages, count, NULL);
    fsb_session_block_free_(block);
    return fsb_session_told_(s->store, err, "save", s->info.user, s->info.id);
}

FSB_API int fsb_session_save_many(fsb_session_store *store, const fsb_session_batch *batch,
                                  size_t count)
{
    void *commit = NULL;
    int   err = store->desc.read_only ? -EROFS : 0;
    for (size_t i = 0; !err && i < count;
         ++i) { /* what can be refused is, before the first write */
        fsb_session *s = batch[i].session;
        if (s->store != store) err = -EINVAL;
        for (size_t k = 0; !err && k < batch[i].count; ++k) {
            const fsb_session_message *m = &batch[i].messages[k];
            err = fsb_session_check_message_(store, m);
            for (size_t a = 0; !err && a < m->attachment_count; ++a)
                if (m->attachments[a].data.size)
                    err = fsb_session_fail_(store, -EINVAL,
                                            "save_many takes stored attachments only");
        }
        if (!err) err = fsb_session_take_notes_(s);
        if (!err) err = store->kind->ready(s);
    }
    if (!err && count) err = store->kind->begin(store, &commit);
    if (err || !count) return fsb_session_told_(store, err, "save_many", "", "");
    for (size_t i = 0; !err && i < count; ++i)
        err = fsb_session_save_in_(batch[i].session, batch[i].messages, batch[i].count, commit);
    const int ended = store->kind->end(store, commit, !err);
    if (!err) err = ended;
    for (size_t i = 0; err && i < count; ++i)
        batch[i].session->doubt = 1, batch[i].session->has_notes = 0;
    return fsb_session_told_(store, err, "save_many", "", "");
}

FSB_API int fsb_session_edit(fsb_session *s, const fsb_session_message *message)
{
    fsb_session_block *block = NULL;
    int                err = s->store->desc.read_only ? -EROFS : 0;
    if (!err && !message->id) err = -ENOENT;
    if (!err) err = fsb_session_prepare_(s, &message, 1, &block);
    if (!err) err = fsb_session_quota_for_(s, message, 1);
    if (!err) err = s->store->kind->edit(s, message);
    s->has_notes = 0;
    fsb_session_block_free_(block);
    return fsb_session_told_(s->store, err, "edit", s->info.user, s->info.id);
}

FSB_API int fsb_session_erase(fsb_session *s, uint64_t first, uint64_t last)
{
    int err = s->store->desc.read_only ? -EROFS : 0;
    if (!err) err = s->store->kind->erase(s, first, last);
    s->has_notes = 0;
    return fsb_session_told_(s->store, err, "erase", s->info.user, s->info.id);
}

FSB_API int fsb_session_load(fsb_session *s, const fsb_session_range *range,
                             fsb_session_messages *out)
{
    fsb_session_messages found;
    memset(&found, 0, sizeof found);
    found.block = fsb_session_block_new_(&s->store->desc.allocator);
    const int err = found.block ? s->store->kind->load(s, range, found.block, &found) : -ENOMEM;
    if (err) fsb_session_block_free_(found.block);
    else *out = found, s->behind = 0;
    return fsb_session_told_(s->store, err, "load", s->info.user, s->info.id);
}

FSB_API int fsb_session_blob(fsb_session_store *store, const char *user, const char *hash,
                             fsb_session_bytes *out)
{
    char              actual[65];
    fsb_session_bytes found;
    memset(&found, 0, sizeof found);
    int err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err && (!hash || strlen(hash) != 64 || strspn(hash, "0123456789abcdef") != 64))
        err = fsb_session_fail_(store, -EINVAL, "a hash is 64 hexadecimal digits in lower case");
    if (err) return err;
    found.block = fsb_session_block_new_(&store->desc.allocator);
    err = found.block ? store->kind->get_blob(store, user, hash, found.block, &found.span)
                      : -ENOMEM;
    if (!err) {
        fsb_session_sha256_(found.span, actual);
        if (strcmp(actual, hash) != 0)
            err = fsb_session_fail_(store, -EBADMSG, "attachment %s of %s is damaged", hash, user);
    }
    if (err) fsb_session_block_free_(found.block);
    else *out = found;
    return fsb_session_told_(store, err, "attachment", user, hash);
}

FSB_API int fsb_session_list(fsb_session_store *store, const char *user,
                             const fsb_session_filter *filter, fsb_session_list_result *out)
{
    fsb_session_filter      f;
    fsb_session_buf_        infos = fsb_session_buffer_(&store->desc.allocator);
    fsb_session_list_result found;
    char                    cursor[FSB_SESSION_NAME_MAX + 24] = "";
    memset(&f, 0, sizeof f);
    if (filter) f = *filter;
    if (!f.limit) f.limit = 100;
    const uint32_t limit = f.limit;
    if (f.limit < UINT32_MAX) ++f.limit; /* one more shows whether there is a next page */
    if (f.cursor && !f.cursor[0]) f.cursor = NULL;
    int err = fsb_session_check_name_(store, "the user", user, 1);
    if (err) return err;
    found.block = fsb_session_block_new_(&store->desc.allocator);
    err = found.block ? store->kind->list(store, user, &f, found.block, &infos) : -ENOMEM;
    found.count = infos.size / sizeof *found.at;
    fsb_session_info *at = (fsb_session_info *)(void *)infos.data;
    if (!err && found.count > limit) {
        found.count = limit;
        snprintf(cursor, sizeof cursor, "%llx:%s", (unsigned long long)at[limit - 1].updated_ns,
                 at[limit - 1].id);
    }
    if (!err) {
        found.at = (const fsb_session_info *)(const void *)fsb_session_block_copy_(
            found.block, infos.data, found.count * sizeof *found.at);
        found.next = fsb_session_block_copy_(found.block, cursor, strlen(cursor));
        if (!found.at || !found.next) err = -ENOMEM;
    }
    fsb_session_unbuffer_(&infos);
    if (err) fsb_session_block_free_(found.block);
    else *out = found;
    return fsb_session_told_(store, err, "list", user, "");
}

static int fsb_session_by_creation_(const void *a, const void *b)
{
    const fsb_session_info *x = (const fsb_session_info *)a, *y = (const fsb_session_info *)b;
    if (x->created_ns != y->created_ns) return x->created_ns < y->created_ns ? 1 : -1;
    return strcmp(y->id, x->id);
}

/* Depth first, with a list of what is still to be visited; newest are put there first. */
static void fsb_session_climb_(const fsb_session_info *all, size_t count, size_t root,
                               fsb_session_buf_ *tree, fsb_session_buf_ *waiting,
                               fsb_session_buf_ *visited)
{
    fsb_session_info next = all[root];
    next.depth = 0;
    fsb_session_put_(waiting, &next, sizeof next);
    while (waiting->size && !tree->err && !waiting->err) {
        waiting->size -= sizeof next;
        memcpy(&next, waiting->data + waiting->size, sizeof next);
        fsb_session_put_(tree, &next, sizeof next);
        for (size_t i = 0; i < count; ++i) {
            if (visited->data[i] || i == root || strcmp(all[i].parent, next.id) != 0) continue;
            fsb_session_info child = all[i];
            visited->data[i] = 1; /* parents that go in circles end here */
            child.depth = next.depth + 1;
            fsb_session_put_(waiting, &child, sizeof child);
        }
    }
}

FSB_API int fsb_session_tree(fsb_session_store *store, const char *user, const char *id,
                             fsb_session_list_result *out)
{
    const fsb_allocator *mem = &store->desc.allocator;
    fsb_session_buf_     infos, tree = fsb_session_buffer_(mem), waiting = tree, visited = tree;
    fsb_session_block   *block;
    int                  err = fsb_session_check_name_(store, "the user", user, 1);
    if (!err) err = fsb_session_check_name_(store, "the session's id", id, 1);
    if (!err) err = fsb_session_infos_(store, user, &block, &infos);
    if (err) return fsb_session_told_(store, err, "tree", user, id);
    fsb_session_info *all = (fsb_session_info *)(void *)infos.data;
    const size_t      count = infos.size / sizeof *all;
    size_t            root = 0;
    if (count) qsort(all, count, sizeof *all, fsb_session_by_creation_);
    while (root < count && strcmp(all[root].id, id) != 0) ++root;
    if (root == count) err = -ENOENT;
    else if (!(err = fsb_session_reserve_(&visited, count))) {
        memset(visited.data, 0, count);
        fsb_session_climb_(all, count, root, &tree, &waiting, &visited);
        err = tree.err ? tree.err : waiting.err;
    }
    const char *at = err ? NULL : fsb_session_block_copy_(block, tree.data, tree.size);
    if (!err && !at) err = -ENOMEM;
    if (!err) {
        out->at = (const fsb_session_info *)(const void *)at;
        out->count = tree.size / sizeof *all, out->next = "", out->block = block;
    } else fsb_session_block_free_(block);
    fsb_session_unbuffer_(&infos), fsb_session_unbuffer_(&tree);
    fsb_session_unbuffer_(&waiting), fsb_session_unbuffer_(&visited);
    return fsb_session_told_(store, err, "tree", user, id);
}

FSB_API int fsb_session_search(fsb_session_store *store, const char *user,
                               const fsb_session_query *query, fsb_session_hits *out)
{
    fsb_session_query  q = *query;
    fsb_session_match_ match;
    fsb_session_hits   found;
    if (!q.limit) q.limit = 20;
    if (!q.snippet_words || q.snippet_words > 200) q.snippet_words = 24;
    if (!q.mark) q.mark = "[";
    if (!q.unmark) q.unmark = "]";
    memset(&found, 0, sizeof found);
    int err = fsb_session_check_name_(store, "the user", user, 1);
    if (err) return err;
    if (store->desc.no_search)
        return fsb_session_fail_(store, -ENOSYS, "the store has no_search set");
    if (!q.words || q.order < 0 || q.order > FSB_SESSION_BEST) err = -EINVAL;
    if (!err) {
        err = fsb_session_parse_query_(&match, &store->desc.allocator, q.words);
        if (!err) found.block = fsb_session_block_new_(&store->desc.allocator);
        if (!err && !found.block) err = -ENOMEM;
        if (!err) err = store->kind->search(store, user, &q, &match, found.block, &found);
        fsb_session_unbuffer_(&match.text);
    }
    if (err) fsb_session_block_free_(found.block);
    else *out = found;
    if (err == -EINVAL || err == -E2BIG)
        fsb_session_fail_(store, err,
                          "query: words, \"phrases\", begin*, AND, OR, NOT or -word after "
                          "a word, ( ); at most %d terms",
                          (int)FSB_SESSION_TERMS_);
    return fsb_session_told_(store, err, "search", user, "");
}

FSB_API int fsb_session_fork(fsb_session **out, fsb_session *s, uint64_t at_id,
                             const fsb_session_info *info)
{
    fsb_session_info        wanted;
    fsb_session_messages    one;
    const fsb_session_range range = {at_id, at_id, 0};
    memset(&wanted, 0, sizeof wanted);
    int err = s->store->desc.read_only ? -EROFS : s->store->kind->open(s);
    if (!err && at_id && at_id != s->info.last_id && !(err = fsb_session_load(s, &range, &one))) {
        if (!one.count) err = -ENOENT;
        fsb_session_free(one.block);
    }
    if (!err) {
        if (info) wanted = *info;
        if (!wanted.title) wanted.title = s->info.title;
        if (!info || !info->config.size) wanted.config = s->info.config;
        wanted.parent = s->info.id, wanted.fork_id = at_id ? at_id : s->info.last_id;
        wanted.updated_ns = 0;
        err = fsb_session_make_(out, s->store, s->info.user, wanted.id, &wanted, wanted.fork_id,
                                NULL, 0);
    }
    return fsb_session_told_(s->store, err, "fork", s->info.user, s->info.id);
}

/* The last message that two sessions share by descent; 0: none. */
static uint64_t fsb_session_common_(const fsb_session_info *a, const fsb_session_info *b)
{
    if (strcmp(a->parent, b->id) == 0) return a->fork_id;
    if (strcmp(b->parent, a->id) == 0) return b->fork_id;
    if (!a->parent[0] || strcmp(a->parent, b->parent) != 0) return 0;
    return a->fork_id < b->fork_id ? a->fork_id : b->fork_id;
}

static int fsb_session_pick_(const fsb_session_messages *from, const uint64_t *ids, size_t count,
                             fsb_session_buf_ *list)
{
    for (size_t i = 0; i < count; ++i) {
        size_t k = 0;
        while (k < from->count && from->at[k].id != ids[i]) ++k;
        if (k == from->count) return -ENOENT;
        fsb_session_put_(list, &from->at[k], sizeof from->at[k]);
    }
    return list->err;
}

/* from = all of into, and behind it the messages that are its own. */
static int fsb_session_rebase_(fsb_session *into, fsb_session *from, const fsb_session_message *own,
                               size_t count)
{
    fsb_session_messages base;
    fsb_session_buf_     list = fsb_session_buffer_(&from->store->desc.allocator);
    fsb_session_info     wanted;
    int                  err = fsb_session_load(into, NULL, &base);
    if (err) return err;
    fsb_session_put_(&list, base.at, base.count * sizeof *base.at);
    fsb_session_put_(&list, own, count * sizeof *own);
    wanted = from->info;
    wanted.parent = into->info.id, wanted.fork_id = into->info.last_id;
    err = list.err ? list.err : fsb_session_adopt_(from, &wanted);
    from->branch.inherits = into->info.last_id;
    if (!err)
        err = from->store->kind->replace(from, (const fsb_session_message *)(const void *)list.data,
                                         base.count + count);
    if (err) from->doubt = 1;
    fsb_session_unbuffer_(&list);
    fsb_session_free(base.block);
    return err;
}

FSB_API int fsb_session_merge(fsb_session *into, fsb_session *from, int how, const uint64_t *ids,
                              size_t count)
{
    fsb_session_messages all;
    fsb_session_range    range = {0, 0, 0};
    fsb_session_buf_     list = fsb_session_buffer_(&into->store->desc.allocator);
    if (into == from || into->store != from->store ||
        strcmp(into->info.user, from->info.user) != 0 ||
        strcmp(into->info.id, from->info.id) == 0 || how < 0 || how > FSB_SESSION_MERGE_PICK)
        return fsb_session_fail_(into->store, -EINVAL,
                                 "merge takes two sessions of one user and store");
    int err = into->store->desc.read_only ? -EROFS : into->store->kind->open(into);
    if (!err) err = from->store->kind->open(from);
    if (!err && how != FSB_SESSION_MERGE_PICK)
        range.first_id = fsb_session_common_(&into->info, &from->info) + 1;
    if (!err && (err = fsb_session_load(from, &range, &all)) == 0) {
        if (how == FSB_SESSION_MERGE_PICK) err = fsb_session_pick_(&all, ids, count, &list);
        else fsb_session_put_(&list, all.at, all.count * sizeof *all.at), err = list.err;
        fsb_session_message *m = (fsb_session_message *)(void *)list.data;
        const size_t         n = list.size / sizeof *m;
        for (size_t i = 0; i < n; ++i) m[i].id = 0;
        if (!err) err = how == FSB_SESSION_MERGE_REBASE ? fsb_session_rebase_(into, from, m, n)
                                                        : fsb_session_append(into, m, n);
        fsb_session_free(all.block);
    }
    fsb_session_unbuffer_(&list);
    return fsb_session_told_(into->store, err, "merge", into->info.user, into->info.id);
}

FSB_API int fsb_session_export(fsb_session *s, int format, fsb_session_bytes *out)
{
    fsb_session_messages all;
    fsb_session_buf_     text = fsb_session_buffer_(&s->store->desc.allocator);
    fsb_session_bytes    made;
    if (format < 0 || format > FSB_SESSION_MARKDOWN)
        return fsb_session_fail_(s->store, -EINVAL, "no such format");
    int err = fsb_session_load(s, NULL, &all);
    if (err) return err;
    if (format == FSB_SESSION_MARKDOWN) fsb_session_put_markdown_(&text, s, &all);
    else fsb_session_put_export_(&text, s, format == FSB_SESSION_JSON, &all);
    made.block = fsb_session_block_new_(&s->store->desc.allocator);
    made.span.data = made.block && !text.err
                   ? fsb_session_block_copy_(made.block, text.data, text.size) : NULL;
    made.span.size = text.size;
    fsb_session_unbuffer_(&text);
    fsb_session_free(all.block);
    if (made.span.data) *out = made;
    else fsb_session_block_free_(made.block), err = -ENOMEM;
    return fsb_session_told_(s->store, err, "export", s->info.user, s->info.id);
}

FSB_API int fsb_session_import(fsb_session **out, fsb_session_store *store, const char *user,
                               const char *id, fsb_session_span text)
{
    const fsb_allocator *mem = &store->desc.allocator;
    fsb_session_buf_     list = fsb_session_buffer_(mem);
    fsb_session_block   *block = fsb_session_block_new_(mem);
    fsb_session_walk_    w;
    int                  err = block ? fsb_session_read_import_(block, text, &w, &list) : -ENOMEM;
    if (!err && !w.info.id && !id) err = -EBADMSG; /* no session line, and no name given */
    if (err == -EBADMSG || err == -ENOTSUP)
        fsb_session_fail_(store, err,
                          err == -ENOTSUP ? "import: written by a newer version"
                                          : "import: line or message %llu is not a session's",
                          (unsigned long long)w.line);
    if (!err)
        err = fsb_session_make_(out, store, user, id && id[0] ? id : w.info.id, &w.info, 0,
                                (const fsb_session_message *)(const void *)list.data,
                                list.size / sizeof(fsb_session_message));
    fsb_session_unbuffer_(&list);
    fsb_session_block_free_(block);
    return fsb_session_told_(store, err, "import", user, id);
}

FSB_API int fsb_session_copy(fsb_session_store *to, fsb_session_store *from, const char *user,
                             const char *id)
{
    fsb_session         *s;
    fsb_session_messages all;
    int                  err = to->desc.read_only ? -EROFS : fsb_session_open(&s, from, user, id);
    if (err) return fsb_session_told_(to, err, "copy", user, id);
    if (!(err = fsb_session_load(s, NULL, &all))) {
        err = fsb_session_copy_blobs_(to, from, user, &all);
        const uint64_t inherits = !err && fsb_session_shares_(to, s, &all) ? s->branch.inherits : 0;
        if (!err)
            err = fsb_session_make_(NULL, to, user, id, &s->info, inherits, all.at, all.count);
        fsb_session_free(all.block);
    }
    fsb_session_close(s);
    return fsb_session_told_(to, err, "copy", user, id);
}

#endif /* AT_EMPTY_PATH */
#endif /* implementation */
/*
MIT License

Copyright (c) 2026 the fsb authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
*/

/* fsb_registry.h - v0.1.0 - versioned documents in LMDB or in a plain folder
   One header, C99 to C17 and C++11 to C++20.

   A document is an id, a version, a content and a few words about it. It is read at the speed of
   memory and written rarely: prompt templates, configurations, manifests, schemas.

   QUICK START
       #define FSB_REGISTRY_IMPLEMENTATION  // in ONE source file, before its other includes
       #include "fsb_registry.h"            // (FSB_IMPLEMENTATION enables every fsb header)
       #include <stdio.h>

       int main(void)
       {
           fsb_registry_desc desc = {0};    // a zero field means "use the default"
           desc.path = "quick-start.registry";
           fsb_registry *reg = NULL;
           if (fsb_registry_open(&reg, &desc) < 0) return 1;

           fsb_registry_doc doc = {0};
           doc.id      = "prompts/welcome";
           doc.version = "1.2.0";
           doc.tags    = "prompt\0greeting\0";              // a list: strings, then an empty one
           doc.fields  = "author=ann\0input.name=string\0"; // the same, each "key=value"
           doc.content = "Hello, {{ name }}!", doc.size = 18;
           fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE); // durable when it returns

           fsb_registry_view view;
           if (fsb_registry_load_range(reg, "prompts/welcome", "^1.2", &view) == 0) {
               char text[100];
               fsb_registry_render(reg, &view.doc, "name=Bob\0", text, sizeof text);
               printf("%s %s: %s\n", view.doc.id, view.doc.version, text);
               fsb_registry_release(&view);
           }
           fsb_registry_close(reg);
           return 0;
       }

   VERSIONS  1.10.0 is newer than 1.9.0, 1.0.0-rc.1 older than 1.0.0 (semver.org); what follows "+"
             tells two versions apart and only then orders them, as text. A version that is not
             semantic ("draft", "2024-05", "01.0.0") is allowed; those are ordered as text, below
             every semantic one. The latest version is the newest release; where there is none, the
             newest pre-release; where there is none, the last of the others.
             Ranges are npm's: "^1.2" "~1.2.3" ">=1.0 <2" "1.x" "1.2 - 2" "1.2.3" "*", spaces mean
             "and", "||" means "or". A pre-release is in a range only if the range names a
             pre-release of the same major.minor.patch; a version that is not semantic is in none.
   LISTS     Tags and fields are lists: strings one after another, each with its '\0', the last one
             empty, as in "a\0b\0" (a literal adds the last '\0'). NULL is the empty list.
   STORES    LMDB: a folder with data.mdb (and data-1.mdb ... when sharded). All the documents of a
             commit appear at once, in every process. Plain folder: one file a version,
             ID/VERSION.md, made to be edited by people and kept in git:
                 ---
                 description: Greets a user
                 type: text/markdown
                 tags: [prompt, greeting]
                 created: 2026-11-21T02:11:34.000000000Z
                 fields:
                   author: ann
                   input.name: string
                 ---
                 Hello, {{ name }}!
             A value is plain text or a JSON string. Anything else is refused with its line number.
             Odd bytes of an id are written %XX; of a part longer than 200 bytes the file name holds
             the beginning and a hash, and a line `id:` or `version:` the rest. Files directly in
             the root, dot files, and files that do not end in .md are left alone; an empty file
             .fsb-registry in the root marks a folder that was created here.
   TEMPLATES {{ name }} is replaced by the input of that name, which a field declares:
             input.NAME=TYPE makes it required, input.NAME=TYPE = JSON gives it a default. TYPE is
             string, number, boolean, list or object; {{ user.name }} and {{ items.0 }} reach into
             objects and lists. Inserted text is never looked at again and inserted as it is;
             {{ name | json }} writes a JSON value, {{ name | html }} escapes & < > " and '.
             {{ "{{" }} writes what stands between the quotes. There is no logic.
   NEEDS     POSIX threads (-pthread), Linux. With a strict -std=, include it before libc headers.
   OPTIONS   FSB_WITH_LMDB (link -llmdb): the LMDB store; without it kind LMDB answers -ENOSYS.
             FSB_WITH_ZSTD (link -lzstd): compressed contents; without it they answer -ENOSYS.
             FSB_STATIC, FSB_API: once, before the first fsb header. Only linkage changes.
   THREADS   Every call is safe from any thread. No thread is started, except one by
             fsb_registry_load_async() where desc.runner is empty. Open a path once a process (the
             second open answers -EBUSY), as often as you like in different processes. After fork()
             the child must not touch the object. A view may be released by another thread.
   MEMORY    desc.allocator. A view of an LMDB document that is not compressed allocates nothing.
             LMDB: where documents lay, and that they were whole, is remembered in 24 to 48 bytes
             for each id, 192 KiB at least and 48 MiB at most in all shards together; while it
             grows, what it was before stays until the close. LMDB and zstd use malloc for
             themselves.
   ERRORS    0 or a count, or a negative errno; out-parameters are written only on success. -ENOENT
             of a load is an answer; every other failure leaves a text in fsb_registry_errmsg():
             -EINVAL an id, version, list, range or desc that makes no sense; -ENAMETOOLONG an id of
             more than 1024 or a version of more than 127 bytes; -EMSGSIZE content over 16 MiB;
             -E2BIG over 1 MiB of words or 1024 tags, or a batch that LMDB cannot hold; -EEXIST
             that version is there; -ESTALE it changed meanwhile; -EDQUOT desc.max_bytes is full;
             -ENOSPC the disk is; -EROFS opened for reading; -EMEDIUMTYPE not a registry;
             -EPROTONOSUPPORT one of a newer release; -EBADMSG a damaged record, or malformed front
             matter (with its line) or template; -EAGAIN every reader slot is taken; -EBUSY views
             are pinned where the map must move (it is full, or a commit failed half way), or the
             path is open already; -ENOKEY a template's variable or input that is not declared;
             -ENODATA an input that is required. A call that fails has changed nothing, but that a
             failed flush may leave behind all of a save or deletion.
   DAMAGE    LMDB: whatever the registry stores has a sum, which is checked the first time that it
             is read at its place: what was flipped is -EBADMSG. Contents of releases that wrote no
             sums are checked by their hash. Keys, and LMDB's own pages, have none: a flipped key
             can hide a document, or a row of an index, until verify.
   DOES NOT  lock a document, merge edits, encrypt, survive an LMDB file whose pages were damaged at
             random (LMDB itself checks little), work on a network file system, or make a batch in a
             plain folder atomic at power loss (each file is). Deletions in a plain folder are not
             in its change feed.
   LICENCE   MIT, at the end of this file.
   CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_REGISTRY_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_REGISTRY_H
#define FSB_REGISTRY_H
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

enum {
    FSB_REGISTRY_ID_MAX      = 1024, /* bytes, any but '\0'. Ids sort bytewise; past 159 bytes, by
                                        the first 128 and then in a fixed order of no meaning */
    FSB_REGISTRY_VERSION_MAX = 127,  /* bytes, any but '\0' */
    FSB_REGISTRY_TEXT_MAX    = 1 << 20, /* bytes: id, version, description, type, tags, fields */
    FSB_REGISTRY_CONTENT_MAX = 16 << 20, /* bytes */
    FSB_REGISTRY_LIST_MAX    = 1024, /* tags of a version, and fields */
    FSB_REGISTRY_SHARDS_MAX  = 64
};

typedef struct fsb_registry fsb_registry; /* opaque */

typedef enum fsb_registry_kind {
    FSB_REGISTRY_AUTO, /* what is there; to create: LMDB, or a folder without FSB_WITH_LMDB */
    FSB_REGISTRY_LMDB,
    FSB_REGISTRY_FOLDER
} fsb_registry_kind;

/* What a save that returned survives. All three survive kill -9. */
typedef enum fsb_registry_durability {
    FSB_REGISTRY_DURABLE, /* power loss */
    FSB_REGISTRY_ORDERED, /* power loss may take the last saves, never the order of the rest; one
                             flush a commit, not two (in a folder: as DURABLE) */
    FSB_REGISTRY_UNSAFE   /* power loss may take everything; call fsb_registry_sync() at the end of
                             a bulk load that can be repeated */
} fsb_registry_durability;

typedef struct fsb_registry_desc {
    const char             *path; /* required: a folder; created, with the last part of its path */
    fsb_registry_kind       kind;
    fsb_registry_durability durability;
    int           read_only;    /* 1: opens what is there, for reading only */
    int           must_exist;   /* 1: -ENOENT instead of creating */
    uint32_t      shards;       /* LMDB: environments, chosen by a hash of the id, 1..64, fixed at
                                   creation (default 1, or what is there) */
    const char   *indexed;      /* LMDB: list of the field names that queries find by index; another
                                   list rebuilds the index, for those too who have the registry
                                   open already (default: what is there) */
    int           zstd_level;   /* 1..19: contents of 1 KiB and more are compressed where that
                                   saves an eighth (default 0: never) */
    uint64_t      map_bytes;    /* LMDB: address space an environment starts with; the file is as
                                   large as its contents (default 16 GiB; on 32 bits 256 MiB) */
    uint64_t      max_bytes;    /* LMDB: an environment's map grows up to this (default: no cap) */
    uint64_t      cache_bytes;  /* LMDB: memory for decoded documents (default 0: no cache) */
    uint32_t      max_views;    /* LMDB: views pinned at once in an environment, up to 65536
                                   (default 256) */
    uint32_t      max_readers;  /* LMDB: of all processes; the first decides (default 1024) */
    uint32_t      wait_ms;      /* LMDB: how long a map that must move waits for the pinned views
                                   of this process, before -EBUSY (default 5000) */
    uint64_t      changes_kept; /* LMDB: commits the change feed remembers (default 100000) */
    fsb_allocator allocator;
    fsb_logger    log;
    fsb_runner    runner;       /* for fsb_registry_load_async() (default: one thread of its own) */
} fsb_registry_desc;

/* A document. To save one, fill what you know; NULL text is "". */
typedef struct fsb_registry_doc {
    const char *id;
    const char *version;
    const char *description;
    const char *content_type;
    const char *tags;        /* list */
    const char *fields;      /* list of "key=value", keys not empty and each once */
    const void *content;     /* of a loaded one: followed by a zero byte that size does not count */
    uint64_t    size;        /* bytes */
    int64_t     created_ns;  /* years 1678 to 2261, as updated_ns;
                                0 in a save: now, or kept when a version is replaced */
    int64_t     updated_ns;  /* 0 in a save: now */
    uint64_t    change;      /* number of the commit that wrote it; see FSB_REGISTRY_SWAP */
    uint8_t     hash[32];    /* BLAKE3-256 of the content; ignored by a save */
} fsb_registry_doc;

/* A loaded document. doc stays as it is, whatever is saved meanwhile, until the release. */
typedef struct fsb_registry_view {
    fsb_registry_doc doc;
    fsb_registry    *owner_; /* private, from here on */
    void            *slot_, *pin_, *block_;
    size_t           block_size_;
} fsb_registry_view;

/* ---- open ---- */

/* Opens or creates the registry desc->path; *out is the caller's until fsb_registry_close().
   A crash while it is being created leaves nothing that a later open would stumble over.
   Errors: EINVAL, ENOENT, ENOMEM, ENOSYS, EBUSY, EMEDIUMTYPE, EPROTONOSUPPORT, EBADMSG, the file
   system's; the text goes to desc->log. Threads: any. */
FSB_API int fsb_registry_open(fsb_registry **out, const fsb_registry_desc *desc);

/* Closes it; waits for asynchronous loads under way. NULL is fine. Views must be released before.
   Errors: none. Threads: no other user left. */
FSB_API void fsb_registry_close(fsb_registry *reg);

/* Copies the text of the last failure on this object, cut to size, and returns its full length.
   Errors: none. Threads: any; another thread's failure may have come last. */
FSB_API int fsb_registry_errmsg(fsb_registry *reg, char *text, size_t size);

/* ---- read ---- */

/* Loads `version` of `id`, or its latest version where `version` is NULL, into *view, without a
   copy: the view pins a snapshot. Release it soon: while one is pinned the file cannot reuse the
   space of what was saved since, and its map cannot move. A compressed content, and a file of a
   plain folder, is read into a buffer that belongs to the view. The registry's decoded cache, where
   it has one, answers first. Errors: ENOENT, EINVAL, ENAMETOOLONG, EAGAIN, EBUSY, ENOMEM, EBADMSG,
   ENOSYS (compressed), the file system's. Threads: any. */
FSB_API int fsb_registry_load(fsb_registry *reg, const char *id, const char *version,
                              fsb_registry_view *view);

/* The same for the newest version in `range`. Errors: those of fsb_registry_load().
   Threads: any. */
FSB_API int fsb_registry_load_range(fsb_registry *reg, const char *id, const char *range,
                                    fsb_registry_view *view);

/* Loads on another thread, then calls done(user, result, view) there, once. The view is done's to
   release (copy the struct to keep it); it is NULL when result is negative. id and version are
   copied. Errors: ENOMEM, EAGAIN (then done is not called), EINVAL. Threads: any; starts one thread
   at the first call where desc.runner is empty. */
FSB_API int fsb_registry_load_async(fsb_registry *reg, const char *id, const char *version,
                                    void (*done)(void *user, int result, fsb_registry_view *view),
                                    void *user);

/* Makes the view a private copy, in memory of its own, that pins nothing and may be kept for as
   long as the registry is open. Errors: ENOMEM (the view is as it was).
   Threads: any, one at a time per view. */
FSB_API int fsb_registry_detach(fsb_registry_view *view);

/* Ends the view; its pointers die. Twice is harmless. Errors: none.
   Threads: any, one at a time per view. */
FSB_API void fsb_registry_release(fsb_registry_view *view);

/* ---- find ---- */

/* Which documents; all conditions must hold, an empty query is every version of everything. */
typedef struct fsb_registry_query {
    const char *id;      /* this id only */
    const char *prefix;  /* ids that begin so */
    const char *tag;     /* with this tag; by index */
    const char *field;   /* "key=value"; by index where the key is indexed, else all are read */
    const char *range;   /* versions in this range */
    int         latest;  /* 1: of those that match, only the latest version of each id */
    int         content; /* 1: with contents; else doc->content may be NULL (size is right) */
    void      (*bad)(void *user, const char *what, int error, const char *text);
                         /* told of each damaged record or malformed file, which is left out;
                            NULL: the first one ends the walk with its error */
} fsb_registry_query;

/* Calls fn(user, doc) for each document that matches, ids in order, the newest version of an id
   first, all of one snapshot. doc is valid during the call. A negative result of fn ends the walk
   and is returned, a positive one ends it. fn NULL: counts. Returns how many matched. fn may use
   the registry; a save in it that finds the map full answers -EBUSY, since the walk pins it.
   Errors: EINVAL, EAGAIN, EBUSY, ENOMEM, EBADMSG, fn's. Threads: any. */
FSB_API int64_t fsb_registry_each(fsb_registry *reg, const fsb_registry_query *query,
                                  int (*fn)(void *user, const fsb_registry_doc *doc), void *user);

/* ---- write ---- */

typedef enum fsb_registry_mode {
    FSB_REGISTRY_NEW,     /* -EEXIST if that version exists */
    FSB_REGISTRY_REPLACE, /* new or not */
    FSB_REGISTRY_SWAP     /* replaces the version that was loaded: -ESTALE if its change number is
                             no longer doc->change, -ENOENT if it is gone */
} fsb_registry_mode;

/* Saves *doc as a version of its id. It is durable (desc.durability) and seen by every process when
   this returns. Saves that threads make at the same time share one commit.
   Errors: EEXIST, ESTALE, ENOENT, EINVAL, ENAMETOOLONG, EMSGSIZE, E2BIG, EROFS, EDQUOT, ENOSPC,
   EBUSY, ENOMEM, EIO. Threads: any; may block. */
FSB_API int fsb_registry_save(fsb_registry *reg, const fsb_registry_doc *doc,
                              fsb_registry_mode mode);

/* The same, if the latest version of the id still is `expected` ("": the id has none), else
   -ESTALE. Errors: those of fsb_registry_save(). Threads: any; may block. */
FSB_API int fsb_registry_save_if(fsb_registry *reg, const fsb_registry_doc *doc,
                                 const char *expected, fsb_registry_mode mode);

/* Saves all of docs[0..count) in one transaction, or none; sharded: one transaction a shard.
   Errors: those of fsb_registry_save(). Threads: any; may block. */
FSB_API int fsb_registry_save_batch(fsb_registry *reg, const fsb_registry_doc *docs, size_t count,
                                    fsb_registry_mode mode);

/* Deletes that version, or with NULL every version, of the id. Returns how many.
   Errors: ENOENT, EINVAL, ENAMETOOLONG, EROFS, EDQUOT, ENOSPC, EBUSY, ENOMEM, EIO.
   Threads: any; may block. */
FSB_API int64_t fsb_registry_delete(fsb_registry *reg, const char *id, const char *version);

/* Brings everything saved so far to the disk, whatever the durability. Errors: EIO, EROFS.
   Threads: any; may block. */
FSB_API int fsb_registry_sync(fsb_registry *reg);

/* ---- watch ---- */

/* A place in the change feed; all zero is its beginning. One number an environment. */
typedef struct fsb_registry_position {
    uint64_t at[FSB_REGISTRY_SHARDS_MAX];
} fsb_registry_position;

typedef struct fsb_registry_change {
    const char *id, *version; /* valid during the call */
    uint64_t    change;       /* number of the commit, ascending within an environment */
    int         deleted;      /* 1: deleted, 0: saved */
} fsb_registry_change;

/* Tells fn what was saved and deleted after *at, in the order of the commits, and moves *at on.
   Returns how many changes; asks without waiting, and costs nothing when there were none. A result
   of fn other than 0 ends it: negative, *at is as it was; positive, *at is behind that commit, and
   the rest of it is not told of. Errors: ESTALE (older than desc.changes_kept, or of another
   registry: take fsb_registry_now(), then walk everything), EAGAIN, EBUSY, ENOMEM, EBADMSG, fn's.
   Threads: any. */
FSB_API int64_t fsb_registry_changes(fsb_registry *reg, fsb_registry_position *at,
                                     int (*fn)(void *user, const fsb_registry_change *change),
                                     void *user);

/* Gives the place after the last change. Errors: EAGAIN, EBUSY, EBADMSG. Threads: any. */
FSB_API int fsb_registry_now(fsb_registry *reg, fsb_registry_position *at);

/* ---- look after ---- */

typedef struct fsb_registry_stats {
    fsb_registry_kind kind;
    uint64_t ids, versions;  /* exact */
    uint64_t content_bytes;  /* of all versions, before compression */
    uint64_t file_bytes;     /* on disk */
    uint64_t map_bytes;      /* LMDB: room before the map must grow, all environments */
    uint64_t last_change;    /* the newest commit's number (the largest, if sharded) */
    uint32_t shards;
    uint32_t readers;        /* LMDB: reader slots in use, all processes */
    uint32_t views;          /* LMDB: pinned now by this object */
    uint64_t cache_hits, cache_misses;
} fsb_registry_stats;

/* Errors: EAGAIN, EBUSY, ENOMEM, EBADMSG. Threads: any. */
FSB_API int fsb_registry_stat(fsb_registry *reg, fsb_registry_stats *out);

/* Reads everything and checks records, keys, content hashes, both directions of the indexes, counts
   and change feed, in one snapshot. Tells bad(user, what, error, text) each problem and returns how
   many there were. bad NULL: counts. Errors: EAGAIN, EBUSY, ENOMEM. Threads: any. */
FSB_API int64_t fsb_registry_verify(fsb_registry *reg,
                                    void (*bad)(void *user, const char *what, int error,
                                                const char *text),
                                    void *user);

/* Copies one consistent snapshot, while others read and write, to `path`, which must not exist; a
   crash leaves no half of it there. compact 1: without free space (slower). The backup is a
   registry: open it, or fsb_registry_restore() it. Errors: EEXIST, ENOSPC, the file system's.
   Threads: any; may block. */
FSB_API int fsb_registry_backup(fsb_registry *reg, const char *path, int compact);

/* Writes a snapshot of an LMDB registry of one shard to fd (a pipe, a socket, a file).
   Errors: ENOTSUP (folder, shards), the descriptor's. Threads: any; may block. */
FSB_API int fsb_registry_backup_fd(fsb_registry *reg, int fd, int compact);

/* Makes the registry desc->path, which must not exist, out of a backup: a folder, or the file that
   fsb_registry_backup_fd() wrote. The result is verified before it appears.
   Errors: EEXIST, ENOENT, EBADMSG, those of fsb_registry_open(). Threads: any; may block. */
FSB_API int fsb_registry_restore(const fsb_registry_desc *desc, const char *backup);

typedef struct fsb_registry_report {
    uint64_t migrated, failed, mismatched; /* versions */
} fsb_registry_report;

/* Copies every version of `from` into `to` (folder or LMDB, either way) with its times, then loads
   each again and compares. bad(user, what, error, text) is told of each that failed and why, with
   -EBADMSG and "mismatch" of each that reads differently; NULL: only counts. Returns 0 if there was
   none of these, else -EIO. Errors: EIO, EAGAIN, ENOMEM, EROFS. Threads: any; may block. */
FSB_API int fsb_registry_copy(fsb_registry *from, fsb_registry *to, fsb_registry_mode mode,
                              fsb_registry_report *report,
                              void (*bad)(void *user, const char *what, int error,
                                          const char *text),
                              void *user);

/* ---- templates ---- */

/* Renders doc's content with the given inputs, a list of "name=value": a string's value is its
   text, any other type's its JSON. Writes up to size - 1 bytes and a '\0' to buf (size 0: nothing)
   and returns the full length. Nothing undeclared, missing or of a wrong type is let through.
   Errors: ENOKEY, ENODATA, EINVAL (wrong type), EBADMSG (malformed). Threads: any. */
FSB_API int64_t fsb_registry_render(fsb_registry *reg, const fsb_registry_doc *doc,
                                    const char *inputs, char *buf, size_t size);

/* ---- helpers, of text only ---- */

/* The string after `item` in its list, NULL at the end; for (s = first(list); s; s = next(s)).
   Errors: none. Threads: any. */
FSB_API const char *fsb_registry_list_first(const char *list);
FSB_API const char *fsb_registry_list_next(const char *item);

/* The value of a field, NULL if there is none. Errors: none. Threads: any. */
FSB_API const char *fsb_registry_field(const fsb_registry_doc *doc, const char *key);

/* 1 if doc has the tag. Errors: none. Threads: any. */
FSB_API int fsb_registry_has_tag(const fsb_registry_doc *doc, const char *tag);

/* < 0, 0, > 0: a is older than, the same as, newer than b. What is empty or too long is oldest.
   Errors: none. Threads: any. */
FSB_API int fsb_registry_version_compare(const char *a, const char *b);

/* 1 if version is in range, 0 if not. Errors: EINVAL (range). Threads: any. */
FSB_API int fsb_registry_version_match(const char *version, const char *range);

typedef enum fsb_registry_part {
    FSB_REGISTRY_MAJOR, FSB_REGISTRY_MINOR, FSB_REGISTRY_PATCH
} fsb_registry_part;

/* Writes the version after `version` to out: "1.2.3" -> "2.0.0", "1.3.0", "1.2.4"; a pre-release
   is finished rather than skipped ("2.0.0-rc.1" -> "2.0.0"). Errors: EINVAL (not semantic).
   Threads: any. */
FSB_API int fsb_registry_version_bump(const char *version, fsb_registry_part part,
                                      char out[FSB_REGISTRY_VERSION_MAX + 1]);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FSB_REGISTRY_H */

/* ==== IMPLEMENTATION: [memory] [blake3] [sum] [version] [range] [list] [record] [message] [view]
   [write] [scan] [lmdb] [folder] [json] [template] [async] [public] =========================== */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_REGISTRY_IMPLEMENTATION)) \
    && !defined(FSB_REGISTRY_DONE_)
#define FSB_REGISTRY_DONE_ /* a second inclusion is harmless */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef FSB_WITH_LMDB
#include <lmdb.h>
#endif
#ifdef FSB_WITH_ZSTD
#include <zstd.h>
#endif
#if !defined(CLOCK_MONOTONIC) || !defined(F_OFD_SETLK)
#error "fsb_registry.h: POSIX is hidden; include it first, or compile with -D_GNU_SOURCE"
#else

enum {
    FSB_REGISTRY_FORMAT_     = 1,   /* of the records and keys; a newer one is refused */
    FSB_REGISTRY_ID_KEY_     = 160, /* longest form of an id in a key ... */
    FSB_REGISTRY_ID_HEAD_    = 128, /* ... of which these are the id's, the rest is a hash */
    FSB_REGISTRY_TERM_KEY_   = 128, /* the same for a tag or field in an index */
    FSB_REGISTRY_TERM_HEAD_  = 96,
    FSB_REGISTRY_VER_KEY_    = 208, /* longest encoded version: 127 bytes of ".a.a.a" make 195 */
    FSB_REGISTRY_KEY_        = 511, /* LMDB's limit; 1 + 128 + 1 + 160 + 1 + 208 fit */
    FSB_REGISTRY_KEY_ROOM_   = 520, /* of a buffer for one, which is written in words of 8 */
    FSB_REGISTRY_COMPARISONS_ = 24, /* in a range */
    FSB_REGISTRY_DEPTH_      = 64,  /* of JSON */
    FSB_REGISTRY_VIEWS_MOST_ = 65536
};

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_registry_mem_(const fsb_allocator *a, void *ptr, size_t old_size, size_t new_size)
{
    if (a->fn) return a->fn(a->user, ptr, old_size, new_size);
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

#ifdef FSB_WITH_LMDB
static void *fsb_registry_zeroes_(const fsb_allocator *a, size_t size)
{
    void *p = fsb_registry_mem_(a, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}
#endif

static void fsb_registry_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) fsb_registry_mem_(a, ptr, size, 0);
}

/* Bytes that grow. A failed growth is remembered, so that only the end must be checked. */
typedef struct fsb_registry_bytes_ {
    const fsb_allocator *alloc;
    uint8_t             *data;
    size_t               size, room;
    int                  failed;
} fsb_registry_bytes_;

static void fsb_registry_put_(fsb_registry_bytes_ *b, const void *data, size_t size)
{
    if (b->failed || !size) return;
    if (size > b->room - b->size) {
        size_t room = b->room ? b->room : 256;
        while (room - b->size < size && room <= SIZE_MAX / 2) room *= 2;
        uint8_t *grown = room - b->size < size ? NULL
                         : (uint8_t *)fsb_registry_mem_(b->alloc, b->data, b->room, room);
        if (!grown) {
            b->failed = 1;
            return;
        }
        b->data = grown, b->room = room;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void fsb_registry_puts_(fsb_registry_bytes_ *b, const char *text)
{
    fsb_registry_put_(b, text, strlen(text));
}

static void fsb_registry_bytes_free_(fsb_registry_bytes_ *b)
{
    fsb_registry_free_(b->alloc, b->data, b->room);
    b->data = NULL, b->size = b->room = 0;
}

static uint32_t fsb_registry_get32_(const uint8_t *p) /* compilers make it one load */
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t fsb_registry_get64_(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24
           | (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48
           | (uint64_t)p[7] << 56;
}

static void fsb_registry_set_(uint8_t *p, uint64_t value, int bytes) /* little-endian */
{
    for (int i = 0; i < bytes; ++i) p[i] = (uint8_t)(value >> 8 * i);
}

static int64_t fsb_registry_clock_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- [blake3] written from the BLAKE3 paper; the whole input is in memory -------------------- */

enum { FSB_REGISTRY_B3_START_ = 1, FSB_REGISTRY_B3_END_ = 2, FSB_REGISTRY_B3_PARENT_ = 4,
       FSB_REGISTRY_B3_ROOT_ = 8, FSB_REGISTRY_B3_CHUNK_ = 1024, FSB_REGISTRY_B3_DEPTH_ = 54 };

static const uint32_t fsb_registry_b3_iv_[8] = {
    0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu,
    0x5be0cd19u
};

static void fsb_registry_b3_mix_(uint32_t *s, int a, int b, int c, int d, uint32_t x, uint32_t y)
{
#define FSB_REGISTRY_ROTR_(v, n) ((v) >> (n) | (v) << (32 - (n)))
    s[a] += s[b] + x, s[d] ^= s[a], s[d] = FSB_REGISTRY_ROTR_(s[d], 16);
    s[c] += s[d], s[b] ^= s[c], s[b] = FSB_REGISTRY_ROTR_(s[b], 12);
    s[a] += s[b] + y, s[d] ^= s[a], s[d] = FSB_REGISTRY_ROTR_(s[d], 8);
    s[c] += s[d], s[b] ^= s[c], s[b] = FSB_REGISTRY_ROTR_(s[b], 7);
#undef FSB_REGISTRY_ROTR_
}

/* cv = compress(cv, block) truncated to 8 words. */
static void fsb_registry_b3_compress_(uint32_t cv[8], const uint32_t block[16], uint64_t counter,
                                      uint32_t length, uint32_t flags)
{
    static const uint8_t shuffle[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    uint32_t s[16], m[16], next[16];
    memcpy(s, cv, 32);
    memcpy(s + 8, fsb_registry_b3_iv_, 16);
    s[12] = (uint32_t)counter, s[13] = (uint32_t)(counter >> 32), s[14] = length, s[15] = flags;
    memcpy(m, block, sizeof m);
    for (int round = 0; round < 7; ++round) {
        fsb_registry_b3_mix_(s, 0, 4, 8, 12, m[0], m[1]);
        fsb_registry_b3_mix_(s, 1, 5, 9, 13, m[2], m[3]);
        fsb_registry_b3_mix_(s, 2, 6, 10, 14, m[4], m[5]);
        fsb_registry_b3_mix_(s, 3, 7, 11, 15, m[6], m[7]);
        fsb_registry_b3_mix_(s, 0, 5, 10, 15, m[8], m[9]);
        fsb_registry_b3_mix_(s, 1, 6, 11, 12, m[10], m[11]);
        fsb_registry_b3_mix_(s, 2, 7, 8, 13, m[12], m[13]);
        fsb_registry_b3_mix_(s, 3, 4, 9, 14, m[14], m[15]);
        for (int i = 0; i < 16; ++i) next[i] = m[shuffle[i]];
        memcpy(m, next, sizeof m);
    }
    for (int i = 0; i < 8; ++i) cv[i] = s[i] ^ s[i + 8];
}

/* One chunk of up to 1 KiB; `root` is set if it is the whole input. */
static void fsb_registry_b3_chunk_(uint32_t cv[8], const uint8_t *data, size_t size,
                                   uint64_t counter, uint32_t root)
{
    memcpy(cv, fsb_registry_b3_iv_, 32);
    uint32_t flags = FSB_REGISTRY_B3_START_;
    for (;;) {
        const size_t n = size < 64 ? size : 64;
        uint8_t      padded[64] = {0};
        uint32_t     block[16];
        if (n) memcpy(padded, data, n);
        for (int i = 0; i < 16; ++i) block[i] = fsb_registry_get32_(padded + 4 * i);
        const int last = size <= 64;
        if (last) flags |= FSB_REGISTRY_B3_END_ | root;
        fsb_registry_b3_compress_(cv, block, counter, (uint32_t)n, flags);
        if (last) return;
        data += n, size -= n, flags = 0;
    }
}

static void fsb_registry_b3_parent_(uint32_t cv[8], const uint32_t left[8], uint32_t root)
{
    uint32_t block[16];
    memcpy(block, left, 32);
    memcpy(block + 8, cv, 32);
    memcpy(cv, fsb_registry_b3_iv_, 32);
    fsb_registry_b3_compress_(cv, block, 0, 64, FSB_REGISTRY_B3_PARENT_ | root);
}

static void fsb_registry_hash_(const void *data, size_t size, uint8_t hash[32])
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t       stack[FSB_REGISTRY_B3_DEPTH_][8], cv[8];
    int            depth = 0;
    uint64_t       chunk = 0;
    for (; size > FSB_REGISTRY_B3_CHUNK_; ++chunk) {
        fsb_registry_b3_chunk_(cv, p, FSB_REGISTRY_B3_CHUNK_, chunk, 0);
        p += FSB_REGISTRY_B3_CHUNK_, size -= FSB_REGISTRY_B3_CHUNK_;
        for (uint64_t n = chunk + 1; !(n & 1); n >>= 1) /* every complete subtree is merged */
            fsb_registry_b3_parent_(cv, stack[--depth], 0);
        memcpy(stack[depth++], cv, 32);
    }
    fsb_registry_b3_chunk_(cv, p, size, chunk, depth ? 0 : FSB_REGISTRY_B3_ROOT_);
    while (depth--) fsb_registry_b3_parent_(cv, stack[depth], depth ? 0 : FSB_REGISTRY_B3_ROOT_);
    for (int i = 0; i < 8; ++i) fsb_registry_set_(hash + 4 * i, cv[i], 4);
}

/* ---- [sum] XXH64, written from its specification; it finds accidents, and is quick ----------- */

#define FSB_REGISTRY_X1_ 0x9e3779b185ebca87u
#define FSB_REGISTRY_X2_ 0xc2b2ae3d27d4eb4fu
#define FSB_REGISTRY_X3_ 0x165667b19e3779f9u
#define FSB_REGISTRY_X4_ 0x85ebca77c2b2ae63u
#define FSB_REGISTRY_X5_ 0x27d4eb2f165667c5u

static uint64_t fsb_registry_turn_(uint64_t x, int n) { return x << n | x >> (64 - n); }

static uint64_t fsb_registry_sum_round_(uint64_t lane, uint64_t word)
{
    return fsb_registry_turn_(lane + word * FSB_REGISTRY_X2_, 31) * FSB_REGISTRY_X1_;
}

static uint64_t fsb_registry_sum_tail_(uint64_t h, const uint8_t *p, size_t size)
{
    for (; size >= 8; p += 8, size -= 8) {
        h ^= fsb_registry_sum_round_(0, fsb_registry_get64_(p));
        h = fsb_registry_turn_(h, 27) * FSB_REGISTRY_X1_ + FSB_REGISTRY_X4_;
    }
    if (size >= 4) {
        h ^= fsb_registry_get32_(p) * FSB_REGISTRY_X1_;
        h = fsb_registry_turn_(h, 23) * FSB_REGISTRY_X2_ + FSB_REGISTRY_X3_;
        p += 4, size -= 4;
    }
    for (; size; ++p, --size)
        h = fsb_registry_turn_(h ^ *p * FSB_REGISTRY_X5_, 11) * FSB_REGISTRY_X1_;
    h = (h ^ h >> 33) * FSB_REGISTRY_X2_;
    h = (h ^ h >> 29) * FSB_REGISTRY_X3_;
    return h ^ h >> 32;
}

static uint64_t fsb_registry_sum_(const void *data, size_t size, uint64_t seed)
{
    const uint8_t *p = (const uint8_t *)data, *end = p + size / 32 * 32;
    uint64_t       h = seed + FSB_REGISTRY_X5_;
    if (size >= 32) {
        uint64_t lane[4] = {seed + FSB_REGISTRY_X1_ + FSB_REGISTRY_X2_, seed + FSB_REGISTRY_X2_,
                            seed, seed - FSB_REGISTRY_X1_};
        for (; p < end; p += 32)
            for (int i = 0; i < 4; ++i)
                lane[i] = fsb_registry_sum_round_(lane[i], fsb_registry_get64_(p + 8 * i));
        h = fsb_registry_turn_(lane[0], 1) + fsb_registry_turn_(lane[1], 7)
            + fsb_registry_turn_(lane[2], 12) + fsb_registry_turn_(lane[3], 18);
        for (int i = 0; i < 4; ++i)
            h = (h ^ fsb_registry_sum_round_(0, lane[i])) * FSB_REGISTRY_X1_ + FSB_REGISTRY_X4_;
    }
    return fsb_registry_sum_tail_(h + size, p, size % 32);
}

/* What stands for `text` in a key: itself, or past `room` bytes its first `head` and 32 digits of
   its hash. The two cannot be confused: only the second form has room's length. */
static size_t fsb_registry_key_text_(char *out, const char *text, size_t size, size_t room,
                                     size_t head)
{
    if (size < room) {
        memcpy(out, text, size);
        return size;
    }
    uint8_t hash[32];
    fsb_registry_hash_(text, size, hash);
    memcpy(out, text, head);
    for (size_t i = 0; i < 16; ++i) {
        out[head + 2 * i]     = "0123456789abcdef"[hash[i] >> 4];
        out[head + 2 * i + 1] = "0123456789abcdef"[hash[i] & 15];
    }
    return head + 32;
}

/* ---- [version] ------------------------------------------------------------------------------- */
/* A version is encoded so that memcmp of two encodings is their order, and no encoding begins
   another. Semantic: 2, three numbers, then 0xff for a release or 1 and the identifiers of the
   pre-release (numeric: 2 and a number; other: 3, text, 0) and 0; last "+build" and 0. A number is
   its count of digits and the digits. Not semantic: 1, the text, 0. The store's keys hold the
   complement, so that the newest version of an id comes first: latest is one seek. */

enum { FSB_REGISTRY_V_TEXT_ = 1, FSB_REGISTRY_V_PRE_, FSB_REGISTRY_V_RELEASE_ };

typedef struct fsb_registry_ver_ {
    uint8_t key[FSB_REGISTRY_VER_KEY_];
    size_t  size, precedence, numbers; /* of key: all, without build, up to the three numbers */
    int     kind;
} fsb_registry_ver_;

static int fsb_registry_digit_(char c) { return c >= '0' && c <= '9'; }

static int fsb_registry_word_(char c) /* of an identifier */
{
    return fsb_registry_digit_(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
}

/* Encodes a number without leading zeros; returns what follows it, NULL if there is none. */
static const char *fsb_registry_ver_number_(fsb_registry_ver_ *v, const char *s)
{
    const char *from = s;
    uint8_t    *out = v->key + v->size + 1;
    while (fsb_registry_digit_(*s)) *out++ = (uint8_t)*s++;
    if (s == from || (s - from > 1 && *from == '0')) return NULL;
    v->key[v->size] = (uint8_t)(s - from);
    v->size = (size_t)(out - v->key);
    return s;
}

/* Encodes identifiers joined by dots; numeric ones order before others (not in a build). */
static const char *fsb_registry_ver_words_(fsb_registry_ver_ *v, const char *s)
{
    for (;; ++s) {
        size_t n = 0, digits = 0;
        for (; fsb_registry_word_(s[n]); ++n) digits += (size_t)fsb_registry_digit_(s[n]);
        if (!n) return NULL;
        if (digits == n) {
            v->key[v->size++] = 2;
            if (!fsb_registry_ver_number_(v, s)) return NULL;
        } else {
            v->key[v->size++] = 3;
            memcpy(v->key + v->size, s, n);
            v->size += n;
            v->key[v->size++] = 0;
        }
        s += n;
        if (*s != '.') return s;
    }
}

static int fsb_registry_ver_semantic_(fsb_registry_ver_ *v, const char *s)
{
    v->size = 0, v->key[v->size++] = 2;
    for (int i = 0; i < 3; ++i) {
        if (i && *s++ != '.') return 0;
        s = fsb_registry_ver_number_(v, s);
        if (!s) return 0;
    }
    v->numbers = v->size;
    v->kind    = *s == '-' ? FSB_REGISTRY_V_PRE_ : FSB_REGISTRY_V_RELEASE_;
    if (*s == '-') {
        v->key[v->size++] = 1;
        s = fsb_registry_ver_words_(v, s + 1);
        if (!s) return 0;
        v->key[v->size++] = 0;
    } else {
        v->key[v->size++] = 0xff;
    }
    v->precedence = v->size;
    if (*s == '+') {
        for (int empty = 1;; ++s) {
            if (!s[1] || s[1] == '.') {
                if (empty) return 0;
                if (!s[1]) break;
                empty = 1;
            } else if (fsb_registry_word_(s[1])) {
                empty = 0;
            } else {
                return 0;
            }
            v->key[v->size++] = (uint8_t)s[1];
        }
        ++s;
    }
    v->key[v->size++] = 0;
    return !*s;
}

static int fsb_registry_ver_read_(fsb_registry_ver_ *v, const char *version)
{
    const size_t n = version ? strlen(version) : 0;
    if (!n) return -EINVAL;
    if (n > FSB_REGISTRY_VERSION_MAX) return -ENAMETOOLONG;
    if (fsb_registry_digit_(*version) && fsb_registry_ver_semantic_(v, version)) return 0;
    v->kind   = FSB_REGISTRY_V_TEXT_;
    v->key[0] = 1;
    memcpy(v->key + 1, version, n + 1);
    v->size = v->precedence = n + 2;
    v->numbers = 1;
    return 0;
}

static int fsb_registry_bytes_compare_(const uint8_t *a, size_t n, const uint8_t *b, size_t m)
{
    const int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

/* The kind of an encoding, complemented (flip 0xff) or not (flip 0); 0 if it is damaged. Sets
   *numbers to the size up to the three numbers. */
static int fsb_registry_ver_kind_(const uint8_t *key, size_t size, uint8_t flip, size_t *numbers)
{
    if (size < 2) return 0;
    size_t at = 1;
    if ((key[0] ^ flip) == 1) return FSB_REGISTRY_V_TEXT_;
    if ((key[0] ^ flip) != 2) return 0;
    for (int i = 0; i < 3; ++i) {
        if (at >= size) return 0;
        at += 1u + (size_t)(key[at] ^ flip);
    }
    if (at >= size) return 0;
    *numbers = at;
    const int mark = key[at] ^ flip; /* nothing else: a search goes on behind it */
    return mark == 0xff ? FSB_REGISTRY_V_RELEASE_ : mark == 1 ? FSB_REGISTRY_V_PRE_ : 0;
}

/* Reads a complemented encoding, as it stands in a key; 0 if it is damaged. */
static int fsb_registry_ver_from_key_(fsb_registry_ver_ *v, const uint8_t *key, size_t size)
{
    if (size > sizeof v->key) return 0;
    v->size = v->precedence = size, v->numbers = 1;
    v->kind = fsb_registry_ver_kind_(key, size, 0xff, &v->numbers);
    for (size_t i = 0; i < size; ++i) v->key[i] = key[i] ^ 0xff;
    if (v->kind == FSB_REGISTRY_V_RELEASE_) v->precedence = v->numbers + 1;
    if (v->kind != FSB_REGISTRY_V_PRE_) return v->kind;
    size_t at = v->numbers + 1;
    while (at < size && v->key[at]) { /* over the identifiers: 2 and a number, or 3, text, 0 */
        if (v->key[at] == 2 && at + 1 < size) {
            at += 2u + v->key[at + 1];
        } else {
            while (at < size && v->key[at]) ++at;
            ++at;
        }
    }
    v->precedence = at + 1;
    return at < size ? v->kind : 0;
}

/* ---- [range] --------------------------------------------------------------------------------- */

typedef enum fsb_registry_cmp_op_ {
    FSB_REGISTRY_LT_, FSB_REGISTRY_LE_, FSB_REGISTRY_GT_, FSB_REGISTRY_GE_, FSB_REGISTRY_EQ_
} fsb_registry_cmp_op_;

/* Alternatives of comparisons that must all hold: what npm calls a range. */
typedef struct fsb_registry_range_ {
    struct {
        fsb_registry_cmp_op_ op;
        int                  alternative;
        fsb_registry_ver_    ver;
    } at[FSB_REGISTRY_COMPARISONS_];
    int count, alternatives;
    int any[FSB_REGISTRY_COMPARISONS_]; /* alternative without a comparison: every release */
} fsb_registry_range_;

/* A version with parts left out: "1", "1.x", "1.2.3-rc.1". */
typedef struct fsb_registry_partial_ {
    uint64_t n[3];
    int      given;
    char     pre[FSB_REGISTRY_VERSION_MAX + 2]; /* "-rc.1" or "" */
} fsb_registry_partial_;

static int fsb_registry_compare_(fsb_registry_range_ *r, fsb_registry_cmp_op_ op, uint64_t major,
                                 uint64_t minor, uint64_t patch, const char *pre)
{
    char text[3 * 21 + FSB_REGISTRY_VERSION_MAX + 2];
    if (r->count == FSB_REGISTRY_COMPARISONS_) return -EINVAL;
    snprintf(text, sizeof text, "%llu.%llu.%llu%s", (unsigned long long)major,
             (unsigned long long)minor, (unsigned long long)patch, pre);
    r->at[r->count].op = op, r->at[r->count].alternative = r->alternatives;
    if (fsb_registry_ver_read_(&r->at[r->count].ver, text) < 0) return -EINVAL;
    return r->at[r->count++].ver.kind == FSB_REGISTRY_V_TEXT_ ? -EINVAL : 0;
}

/* Reads one; returns what follows it, NULL if it is malformed. */
static const char *fsb_registry_partial_read_(fsb_registry_partial_ *p, const char *s)
{
    memset(p, 0, sizeof *p);
    for (int i = 0; i < 3; ++i) {
        if (i && *s != '.') break;
        if (i) ++s;
        if (*s == 'x' || *s == 'X' || *s == '*') { /* the rest may only be more of these */
            for (++s; *s == '.' && i < 2; ++i, s += 2)
                if (s[1] != 'x' && s[1] != 'X' && s[1] != '*') return NULL;
            return s;
        }
        if (!fsb_registry_digit_(*s) || (*s == '0' && fsb_registry_digit_(s[1]))) return NULL;
        for (; fsb_registry_digit_(*s); ++s) {
            if (p->n[i] >= 1000000000000000000u) return NULL;
            p->n[i] = p->n[i] * 10 + (uint64_t)(*s - '0');
        }
        ++p->given;
    }
    size_t n = 0;
    if (*s == '-' && p->given == 3) {
        while ((fsb_registry_word_(s[n]) || s[n] == '.') && n + 1 < sizeof p->pre) ++n;
        memcpy(p->pre, s, n);
        s += n;
    }
    if (*s == '+') /* a build has no order, so it has no say */
        for (++s; fsb_registry_word_(*s) || *s == '.';) ++s;
    return s;
}

/* low <= version < the version after the first `kept` numbers of p */
static int fsb_registry_between_(fsb_registry_range_ *r, const fsb_registry_partial_ *p, int kept)
{
    uint64_t high[3] = {0, 0, 0};
    for (int i = 0; i < kept; ++i) high[i] = p->n[i];
    high[kept - 1]++;
    const int err = fsb_registry_compare_(r, FSB_REGISTRY_GE_, p->n[0], p->n[1], p->n[2], p->pre);
    return err < 0 ? err
                   : fsb_registry_compare_(r, FSB_REGISTRY_LT_, high[0], high[1], high[2], "");
}

static int fsb_registry_comparison_(fsb_registry_range_ *r, const char *op, size_t length,
                                    const fsb_registry_partial_ *p)
{
    if (!p->given) { /* "*", "^x", ">=*" */
        if (length == 1 && (*op == '<' || *op == '>')) return -EINVAL;
        r->any[r->alternatives] = 1;
        return 0;
    }
    if (length == 1 && *op == '^') {
        int kept = 1; /* up to the first number that is not zero, or the last that is given */
        while (kept < p->given && !p->n[kept - 1]) ++kept;
        return fsb_registry_between_(r, p, kept);
    }
    if (length == 1 && *op == '~') return fsb_registry_between_(r, p, p->given < 2 ? 1 : 2);
    const int whole = p->given == 3;
    if (!length || (length == 1 && *op == '=')) {
        if (!whole) return fsb_registry_between_(r, p, p->given);
        return fsb_registry_compare_(r, FSB_REGISTRY_EQ_, p->n[0], p->n[1], p->n[2], p->pre);
    }
    const int with_equal = length == 2;
    uint64_t  n[3] = {p->n[0], p->n[1], p->n[2]};
    /* ">1.2" means from 1.3.0 on, "<=1.2" up to all of 1.2 */
    const int next = !whole && with_equal == (*op == '<');
    if (next) ++n[p->given - 1];
    fsb_registry_cmp_op_ kind = *op == '<' ? FSB_REGISTRY_LT_ : FSB_REGISTRY_GE_;
    if (whole && *op == '<' && with_equal) kind = FSB_REGISTRY_LE_;
    if (whole && *op == '>' && !with_equal) kind = FSB_REGISTRY_GT_;
    return fsb_registry_compare_(r, kind, n[0], n[1], n[2], p->pre);
}

/* "1.2 - 2.0" has both ends in it: returns the second of them if s is what follows the first. */
static const char *fsb_registry_hyphen_(const char *s)
{
    const char *dash = s + strspn(s, " ");
    return dash > s && dash[0] == '-' && dash[1] == ' ' ? dash + 1 + strspn(dash + 1, " ") : NULL;
}

static int fsb_registry_range_read_(fsb_registry_range_ *r, const char *s)
{
    r->count = r->alternatives = 0;
    memset(r->any, 0, sizeof r->any);
    for (int parts = 0;;) {
        while (*s == ' ' || *s == ',') ++s;
        if (!*s || (s[0] == '|' && s[1] == '|')) {
            if (!parts) r->any[r->alternatives] = 1;
            if (!*s) break;
            if (++r->alternatives == FSB_REGISTRY_COMPARISONS_) return -EINVAL;
            s += 2, parts = 0;
            continue;
        }
        const char *op = s;
        if (*s == '^' || *s == '~' || *s == '=') ++s;
        else if (*s == '<' || *s == '>') s += 1 + (s[1] == '=');
        size_t length = (size_t)(s - op);
        while (*s == ' ') ++s;
        fsb_registry_partial_ p;
        s = fsb_registry_partial_read_(&p, s);
        const char *to = s && !length ? fsb_registry_hyphen_(s) : NULL;
        if (to) {
            const int low = fsb_registry_comparison_(r, ">=", 2, &p);
            if (low < 0) return low;
            op = "<=", length = 2, s = fsb_registry_partial_read_(&p, to);
        }
        if (!s || (*s && *s != ' ' && *s != ',' && *s != '|')) return -EINVAL;
        const int err = fsb_registry_comparison_(r, op, length, &p);
        if (err < 0) return err;
        ++parts;
    }
    ++r->alternatives;
    return 0;
}

static int fsb_registry_range_has_(const fsb_registry_range_ *r, const fsb_registry_ver_ *v)
{
    if (v->kind == FSB_REGISTRY_V_TEXT_) return 0;
    for (int alternative = 0; alternative < r->alternatives; ++alternative) {
        int holds = 1, parts = 0, named = v->kind == FSB_REGISTRY_V_RELEASE_;
        for (int i = 0; i < r->count && holds; ++i) {
            if (r->at[i].alternative != alternative) continue;
            const fsb_registry_ver_ *w = &r->at[i].ver;
            const int order = fsb_registry_bytes_compare_(v->key, v->precedence, w->key,
                                                          w->precedence);
            switch (r->at[i].op) {
            case FSB_REGISTRY_LT_: holds = order < 0; break;
            case FSB_REGISTRY_LE_: holds = order <= 0; break;
            case FSB_REGISTRY_GT_: holds = order > 0; break;
            case FSB_REGISTRY_GE_: holds = order >= 0; break;
            default: holds = order == 0; break;
            }
            ++parts;
            named |= w->kind == FSB_REGISTRY_V_PRE_ && w->numbers == v->numbers
                     && !memcmp(w->key, v->key, v->numbers);
        }
        if (holds && named && (parts || r->any[alternative])) return 1;
    }
    return 0;
}

/* ---- [list] ---------------------------------------------------------------------------------- */

FSB_API const char *fsb_registry_list_next(const char *item)
{
    item += strlen(item) + 1;
    return *item ? item : NULL;
}

FSB_API const char *fsb_registry_list_first(const char *list)
{
    return list && *list ? list : NULL;
}

/* With the empty string at its end. */
static size_t fsb_registry_list_size_(const char *list)
{
    const char *s = list;
    while (s && *s) s += strlen(s) + 1;
    return s ? (size_t)(s - list) + 1 : 1;
}

static size_t fsb_registry_list_count_(const char *list)
{
    size_t count = 0;
    for (const char *s = fsb_registry_list_first(list); s; s = fsb_registry_list_next(s)) ++count;
    return count;
}

FSB_API int fsb_registry_has_tag(const fsb_registry_doc *doc, const char *tag)
{
    for (const char *s = fsb_registry_list_first(doc->tags); s; s = fsb_registry_list_next(s))
        if (!strcmp(s, tag)) return 1;
    return 0;
}

/* The value in `list` of the key text[0..size), NULL if it has none. */
static const char *fsb_registry_value_(const char *list, const char *key, size_t size)
{
    for (const char *s = fsb_registry_list_first(list); s; s = fsb_registry_list_next(s))
        if (!strncmp(s, key, size) && s[size] == '=') return s + size + 1;
    return NULL;
}

FSB_API const char *fsb_registry_field(const fsb_registry_doc *doc, const char *key)
{
    return fsb_registry_value_(doc->fields, key, strlen(key));
}

static int fsb_registry_list_has_(const char *list, const char *text, size_t size)
{
    for (const char *s = fsb_registry_list_first(list); s; s = fsb_registry_list_next(s))
        if (!strncmp(s, text, size) && !s[size]) return 1;
    return 0;
}

/* ---- [record] -------------------------------------------------------------------------------- */
/* Little-endian: format u8, flags u8, header size u16, then the lengths (with '\0') of id u16 and
   version u16, of description, type, tags, fields u32 each; content size u64, stored size u64,
   created i64, updated i64, change u64, hash 32, sum of the stored content u64, sum u64 of all the
   rest. After header-size bytes (a newer release may have more of them; those without the sums have
   96) the six texts and the stored content with a zero byte: readable in place. */

enum { FSB_REGISTRY_R_LENGTHS_ = 4, FSB_REGISTRY_R_SIZE_ = 24, FSB_REGISTRY_R_STORED_ = 32,
       FSB_REGISTRY_R_CREATED_ = 40, FSB_REGISTRY_R_UPDATED_ = 48, FSB_REGISTRY_R_CHANGE_ = 56,
       FSB_REGISTRY_R_HASH_ = 64, FSB_REGISTRY_R_LEAST_ = 96, FSB_REGISTRY_R_CONTENT_SUM_ = 96,
       FSB_REGISTRY_R_SUM_ = 104, FSB_REGISTRY_R_HEADER_ = 112, FSB_REGISTRY_R_ZSTD_ = 1 };

typedef struct fsb_registry_record_ {
    uint8_t *data;
    size_t   size, room; /* allocated: room */
} fsb_registry_record_;

static const char *fsb_registry_text_(const char *s) { return s ? s : ""; }

/* Outside the years that a plain folder writes as text, which are all whole years of int64_t. */
static int fsb_registry_is_far_(int64_t ns)
{
    return ns < (int64_t)-9214560000 * 1000000000 || ns >= (int64_t)9214646400 * 1000000000;
}

/* What the registry refuses in a document; *why says it in words. */
static int fsb_registry_doc_check_(const fsb_registry_doc *doc, const char **why)
{
    const size_t id = doc->id ? strlen(doc->id) : 0;
    const size_t ver = doc->version ? strlen(doc->version) : 0;
    *why = "an id and a version must not be empty";
    if (!id || !ver) return -EINVAL;
    *why = "an id has at most 1024 bytes, a version 127";
    if (id > FSB_REGISTRY_ID_MAX || ver > FSB_REGISTRY_VERSION_MAX) return -ENAMETOOLONG;
    *why = "a content has at most 16 MiB";
    if (doc->size > FSB_REGISTRY_CONTENT_MAX) return -EMSGSIZE;
    *why = "size without content";
    if (doc->size && !doc->content) return -EINVAL;
    *why = "a time must lie in the years 1678 to 2261";
    if (fsb_registry_is_far_(doc->created_ns) || fsb_registry_is_far_(doc->updated_ns))
        return -EINVAL;
    *why = "description, type, tags and fields have at most 1 MiB";
    const size_t words = strlen(fsb_registry_text_(doc->description))
                         + strlen(fsb_registry_text_(doc->content_type))
                         + fsb_registry_list_size_(doc->tags)
                         + fsb_registry_list_size_(doc->fields) + id + ver + 4;
    if (words > FSB_REGISTRY_TEXT_MAX) return -E2BIG;
    *why = "a version has at most 1024 tags and 1024 fields";
    if (fsb_registry_list_count_(doc->tags) > FSB_REGISTRY_LIST_MAX
        || fsb_registry_list_count_(doc->fields) > FSB_REGISTRY_LIST_MAX)
        return -E2BIG;
    *why = "a field must be key=value, each key once, keys without line breaks";
    for (const char *s = fsb_registry_list_first(doc->fields); s; s = fsb_registry_list_next(s)) {
        const char *equal = strchr(s, '=');
        if (!equal || equal == s || strcspn(s, "\r\n") < (size_t)(equal - s)) return -EINVAL;
        if (fsb_registry_value_(doc->fields, s, (size_t)(equal - s)) != equal + 1) return -EINVAL;
    }
    return 0;
}

#ifdef FSB_WITH_ZSTD
/* Returns the size in dst, 0 where compression does not pay or has no memory. */
static size_t fsb_registry_compress_(int level, void *dst, const void *src, size_t size)
{
    if (!level || size < 1024) return 0;
    const size_t n = ZSTD_compress(dst, size - size / 8, src, size, level);
    return ZSTD_isError(n) ? 0 : n;
}
#endif

/* The record of a checked document; the caller frees it. */
static int fsb_registry_encode_(const fsb_registry_desc *desc, const fsb_registry_doc *doc,
                                fsb_registry_record_ *rec)
{
    const char *text[6] = {doc->id, doc->version, fsb_registry_text_(doc->description),
                           fsb_registry_text_(doc->content_type),
                           doc->tags && *doc->tags ? doc->tags : "",
                           doc->fields && *doc->fields ? doc->fields : ""};
    size_t length[6], at = FSB_REGISTRY_R_HEADER_;
    for (int i = 0; i < 6; ++i) {
        length[i] = i < 4 ? strlen(text[i]) + 1 : fsb_registry_list_size_(text[i]);
        at += length[i];
    }
    const size_t size = (size_t)doc->size;
    rec->room = at + size + 1;
    rec->data = (uint8_t *)fsb_registry_mem_(&desc->allocator, NULL, 0, rec->room);
    if (!rec->data) return -ENOMEM;
    uint8_t *p = rec->data;
    memset(p, 0, FSB_REGISTRY_R_HEADER_);
    p[0] = FSB_REGISTRY_FORMAT_;
    fsb_registry_set_(p + 2, FSB_REGISTRY_R_HEADER_, 2);
    fsb_registry_set_(p + 4, length[0], 2);
    fsb_registry_set_(p + 6, length[1], 2);
    for (int i = 2; i < 6; ++i) fsb_registry_set_(p + 4 * i, length[i], 4);
    at = FSB_REGISTRY_R_HEADER_;
    for (int i = 0; i < 6; at += length[i++]) memcpy(p + at, text[i], length[i]);
    fsb_registry_hash_(doc->content, size, p + FSB_REGISTRY_R_HASH_);
    size_t stored = 0;
#ifdef FSB_WITH_ZSTD
    stored = fsb_registry_compress_(desc->zstd_level, p + at, doc->content, size);
#endif
    if (stored) {
        p[1] = FSB_REGISTRY_R_ZSTD_;
    } else {
        stored = size;
        if (size) memcpy(p + at, doc->content, size);
    }
    p[at + stored] = 0;
    rec->size = at + stored + 1;
    const uint64_t sum = fsb_registry_sum_(p + at, stored, 0);
    fsb_registry_set_(p + FSB_REGISTRY_R_CONTENT_SUM_, sum, 8);
    const int64_t now = doc->updated_ns ? 0 : fsb_registry_clock_();
    fsb_registry_set_(p + FSB_REGISTRY_R_SIZE_, size, 8);
    fsb_registry_set_(p + FSB_REGISTRY_R_STORED_, stored, 8);
    fsb_registry_set_(p + FSB_REGISTRY_R_CREATED_, (uint64_t)doc->created_ns, 8);
    fsb_registry_set_(p + FSB_REGISTRY_R_UPDATED_, (uint64_t)(doc->updated_ns + now), 8);
    return 0;
}

#ifdef FSB_WITH_LMDB
static uint16_t fsb_registry_get16_(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

/* Reads a record in place. Nothing in it is believed: every text must end where its length says,
   every list with an empty string. content is left NULL where it is compressed. Straight code,
   since every load and every row of a list comes by. */
static int fsb_registry_decode_(const uint8_t *p, size_t size, fsb_registry_doc *doc)
{
    if (size < FSB_REGISTRY_R_LEAST_ + 7) return -EBADMSG;
    const size_t header = fsb_registry_get16_(p + 2);
    const size_t id = fsb_registry_get16_(p + 4), version = fsb_registry_get16_(p + 6);
    const size_t words = fsb_registry_get32_(p + 8), type = fsb_registry_get32_(p + 12);
    const size_t tags = fsb_registry_get32_(p + 16), fields = fsb_registry_get32_(p + 20);
    const uint64_t stored = fsb_registry_get64_(p + FSB_REGISTRY_R_STORED_);
    doc->size = fsb_registry_get64_(p + FSB_REGISTRY_R_SIZE_);
    const int packed = p[1] & FSB_REGISTRY_R_ZSTD_;
    const uint64_t texts = (uint64_t)id + version + words + type + tags + fields;
    if (p[0] != FSB_REGISTRY_FORMAT_ || header < FSB_REGISTRY_R_LEAST_ || header > size
        || texts >= size - header || stored != size - header - texts - 1
        || doc->size > FSB_REGISTRY_CONTENT_MAX || (!packed && stored != doc->size))
        return -EBADMSG;
    if (!id || !version || !words || !type || !tags || !fields) return -EBADMSG;
    const char *text = (const char *)p + header;
    doc->id           = text, text += id;
    doc->version      = text, text += version;
    doc->description  = text, text += words;
    doc->content_type = text, text += type;
    doc->tags         = text, text += tags;
    doc->fields       = text, text += fields;
    doc->content      = packed ? NULL : text;
    const int ends = doc->version[-1] | doc->description[-1] | doc->content_type[-1]
                     | doc->tags[-1] | doc->fields[-1] | text[-1] | p[size - 1]
                     | (tags > 1 ? doc->fields[-2] : 0) | (fields > 1 ? text[-2] : 0);
    if (ends) return -EBADMSG;
    doc->created_ns = (int64_t)fsb_registry_get64_(p + FSB_REGISTRY_R_CREATED_);
    doc->updated_ns = (int64_t)fsb_registry_get64_(p + FSB_REGISTRY_R_UPDATED_);
    doc->change     = fsb_registry_get64_(p + FSB_REGISTRY_R_CHANGE_);
    memcpy(doc->hash, p + FSB_REGISTRY_R_HASH_, 32);
    return 0;
}

/* Decompresses the content of a decoded record into dst[doc->size + 1]. */
static int fsb_registry_unpack_(const uint8_t *record, size_t size, const fsb_registry_doc *doc,
                                char *dst)
{
#ifdef FSB_WITH_ZSTD
    const size_t stored = (size_t)fsb_registry_get64_(record + FSB_REGISTRY_R_STORED_);
    const size_t n = ZSTD_decompress(dst, (size_t)doc->size, record + size - 1 - stored, stored);
    if (ZSTD_isError(n) || n != doc->size) return -EBADMSG;
    dst[n] = 0;
    return 0;
#else
    (void)record, (void)size, (void)doc, (void)dst;
    return -ENOSYS;
#endif
}

/* Does a decoded record have the sums? Those of older releases do not. */
static int fsb_registry_has_sums_(const uint8_t *record)
{
    return fsb_registry_get16_(record + 2) >= FSB_REGISTRY_R_HEADER_;
}

/* The sum of a record without its content, under `name`, its key after the 'd': a record that
   stands under another document's key does not fit either. */
static uint64_t fsb_registry_record_sum_(const uint8_t *record, size_t size, const MDB_val *name)
{
    const size_t rest = size - FSB_REGISTRY_R_HEADER_ - 1
                        - (size_t)fsb_registry_get64_(record + FSB_REGISTRY_R_STORED_);
    uint64_t sum = fsb_registry_sum_(name->mv_data, name->mv_size, 0);
    sum = fsb_registry_sum_(record, FSB_REGISTRY_R_SUM_, sum);
    return fsb_registry_sum_(record + FSB_REGISTRY_R_HEADER_, rest, sum);
}

/* Is a decoded record, but for its content, as it was saved? */
static int fsb_registry_words_fit_(const uint8_t *record, size_t size, const MDB_val *name)
{
    return !fsb_registry_has_sums_(record)
           || fsb_registry_record_sum_(record, size, name)
                  == fsb_registry_get64_(record + FSB_REGISTRY_R_SUM_);
}

/* Is the content, unpacked, as it was saved? */
static int fsb_registry_content_fits_(const uint8_t *record, size_t size,
                                      const fsb_registry_doc *doc)
{
    uint8_t      hash[32];
    const size_t stored = (size_t)fsb_registry_get64_(record + FSB_REGISTRY_R_STORED_);
    if (fsb_registry_has_sums_(record))
        return fsb_registry_sum_(record + size - 1 - stored, stored, 0)
               == fsb_registry_get64_(record + FSB_REGISTRY_R_CONTENT_SUM_);
    fsb_registry_hash_(doc->content, (size_t)doc->size, hash);
    return !memcmp(hash, doc->hash, sizeof hash);
}
#endif /* FSB_WITH_LMDB */

/* ---- [message] ------------------------------------------------------------------------------- */

typedef struct fsb_registry_write_ fsb_registry_write_;
typedef struct fsb_registry_scan_ fsb_registry_scan_;
typedef struct fsb_registry_env_ fsb_registry_env_;
typedef struct fsb_registry_cache_ fsb_registry_cache_;
typedef struct fsb_registry_job_ fsb_registry_job_;
typedef void (*fsb_registry_bad_)(void *user, const char *what, int error, const char *text);

/* What a load wants: of `id` the latest version, `version`, or the newest in `range`. Checked. */
typedef struct fsb_registry_pick_ {
    const char                *id, *version;
    size_t                     id_size, version_size; /* bytes, without '\0' */
    const fsb_registry_range_ *range;
} fsb_registry_pick_;

static fsb_registry_pick_ fsb_registry_pick_of_(const char *id, const char *version)
{
    fsb_registry_pick_ pick = {id, version, strlen(id), version ? strlen(version) : 0, NULL};
    return pick;
}

/* What a store does; the calls above it check arguments and choose the store. */
typedef struct fsb_registry_ops_ {
    void (*close)(fsb_registry *reg);
    int (*load)(fsb_registry *reg, const fsb_registry_pick_ *pick, fsb_registry_view *view);
    int (*each)(fsb_registry *reg, fsb_registry_scan_ *scan);
    void (*write)(fsb_registry *reg, const char *id, fsb_registry_write_ *w);
    int (*sync)(fsb_registry *reg);
    int64_t (*changes)(fsb_registry *reg, fsb_registry_position *at,
                       int (*fn)(void *user, const fsb_registry_change *change), void *user);
    int (*now)(fsb_registry *reg, fsb_registry_position *at);
    int (*stat)(fsb_registry *reg, fsb_registry_stats *out);
    int64_t (*verify)(fsb_registry *reg, fsb_registry_bad_ bad, void *user);
    int (*backup)(fsb_registry *reg, const char *aside, int compact);
} fsb_registry_ops_;

/* Lock order: folder, or an environment's write -> gate -> queue; leaves: jobs, cache, text. */
struct fsb_registry {
    fsb_registry_desc        desc; /* defaults filled in; read-only after open */
    const fsb_registry_ops_ *ops;
    char                    *path;
    size_t                   path_size;
    int                      dir;       /* descriptor of path */
    fsb_registry_env_       *envs;      /* [desc.shards] of an LMDB store */
    fsb_registry_cache_     *cache;     /* NULL: none */
    pthread_mutex_t          folder;    /* a plain folder's writers of this process */
    pthread_mutex_t          text_lock; /* guards text */
    char                     text[640];
    pthread_mutex_t          jobs_lock; /* guards the rest */
    pthread_cond_t           jobs_cond;
    fsb_registry_job_       *jobs, **jobs_end;
    uint64_t                 jobs_live;
    int                      thread_started, stopping;
    pthread_t                thread;
};

/* Keeps the text of a failure, logs it, returns err. */
__attribute__((format(printf, 3, 4)))
static int fsb_registry_fail_(fsb_registry *reg, int err, const char *format, ...)
{
    char    text[sizeof reg->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *s = text; *s; ++s)
        if (*s == '\n' || *s == '\r') *s = ' ';
    pthread_mutex_lock(&reg->text_lock);
    memcpy(reg->text, text, sizeof text);
    pthread_mutex_unlock(&reg->text_lock);
    if (reg->desc.log.fn) reg->desc.log.fn(reg->desc.log.user, FSB_LOG_WARN, "registry", text);
    return err;
}

FSB_API int fsb_registry_errmsg(fsb_registry *reg, char *text, size_t size)
{
    pthread_mutex_lock(&reg->text_lock);
    const size_t n = strlen(reg->text), part = n < size ? n : size ? size - 1 : 0;
    memcpy(text, reg->text, part);
    pthread_mutex_unlock(&reg->text_lock);
    if (size) text[part] = 0;
    return (int)n;
}

/* 1: it is in the folder; 0: it is not; or why that cannot be told: what is not seen for a moment
   must not be made anew in its place. */
static int fsb_registry_there_(fsb_registry *reg, const char *name)
{
    if (faccessat(reg->dir, name, F_OK, 0) == 0) return 1;
    if (errno == ENOENT) return 0;
    return fsb_registry_fail_(reg, -errno, "%s/%s: %s", reg->path, name, strerror(errno));
}

/* ---- [view] ---------------------------------------------------------------------------------- */

static void fsb_registry_slot_end_(void *slot);
static void fsb_registry_pin_end_(void *pin);

static void fsb_registry_view_init_(fsb_registry_view *view, fsb_registry *reg)
{
    view->owner_ = reg;
    view->slot_ = view->pin_ = view->block_ = NULL;
    view->block_size_ = 0;
}

FSB_API void fsb_registry_release(fsb_registry_view *view)
{
    if (view->slot_) fsb_registry_slot_end_(view->slot_);
    if (view->pin_) fsb_registry_pin_end_(view->pin_);
    if (view->block_)
        fsb_registry_free_(&view->owner_->desc.allocator, view->block_, view->block_size_);
    fsb_registry_view_init_(view, view->owner_);
}

static size_t fsb_registry_doc_size_(const fsb_registry_doc *doc)
{
    return strlen(doc->id) + strlen(doc->version) + strlen(doc->description)
           + strlen(doc->content_type) + 4 + fsb_registry_list_size_(doc->tags)
           + fsb_registry_list_size_(doc->fields) + (doc->content ? (size_t)doc->size + 1 : 0);
}

static const char *fsb_registry_append_(char **to, const void *from, size_t size)
{
    char *at = *to;
    memcpy(at, from, size);
    *to += size;
    return at;
}

/* Copies a loaded document's bytes to `to`, which has room for its doc_size_. */
static void fsb_registry_doc_copy_(fsb_registry_doc *copy, const fsb_registry_doc *doc, char *to)
{
    *copy              = *doc;
    copy->id           = fsb_registry_append_(&to, doc->id, strlen(doc->id) + 1);
    copy->version      = fsb_registry_append_(&to, doc->version, strlen(doc->version) + 1);
    copy->description  = fsb_registry_append_(&to, doc->description, strlen(doc->description) + 1);
    copy->content_type = fsb_registry_append_(&to, doc->content_type,
                                              strlen(doc->content_type) + 1);
    copy->tags   = fsb_registry_append_(&to, doc->tags, fsb_registry_list_size_(doc->tags));
    copy->fields = fsb_registry_append_(&to, doc->fields, fsb_registry_list_size_(doc->fields));
    if (doc->content)
        copy->content = fsb_registry_append_(&to, doc->content, (size_t)doc->size + 1);
}

FSB_API int fsb_registry_detach(fsb_registry_view *view)
{
    fsb_registry_view copy;
    if (!view->slot_ && !view->pin_) return 0; /* it has its own memory already */
    fsb_registry_view_init_(&copy, view->owner_);
    copy.block_size_ = fsb_registry_doc_size_(&view->doc);
    copy.block_ = fsb_registry_mem_(&view->owner_->desc.allocator, NULL, 0, copy.block_size_);
    if (!copy.block_) return -ENOMEM;
    fsb_registry_doc_copy_(&copy.doc, &view->doc, (char *)copy.block_);
    fsb_registry_release(view);
    *view = copy;
    return 0;
}

/* ---- [write] --------------------------------------------------------------------------------- */

/* One save, batch or deletion on its way through a store. */
struct fsb_registry_write_ {
    const fsb_registry_doc *docs;
    fsb_registry_record_   *records; /* LMDB: encoded before any lock is taken */
    size_t                  count;   /* 0: delete */
    fsb_registry_mode       mode;
    const char             *expected;    /* latest version, "" none, NULL does not matter */
    const char             *id, *version; /* to delete; version NULL: all */
    size_t                  failed;      /* index of the document that was refused */
    int64_t                 result;
    int                     done; /* guarded by the queue's lock, as is next */
    fsb_registry_write_    *next;
};

static uint64_t fsb_registry_mix_(uint64_t h) /* the finaliser of MurmurHash3 */
{
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 33;
}

/* FNV-1a, mixed: it is part of the format, so it must not depend on the machine. */
static uint32_t fsb_registry_shard_(const fsb_registry *reg, const char *id)
{
    uint64_t h = 0xcbf29ce484222325u;
    if (reg->desc.shards == 1) return 0;
    for (; *id; ++id) h = (h ^ (uint8_t)*id) * 0x100000001b3u;
    return (uint32_t)(fsb_registry_mix_(h) % reg->desc.shards);
}

/* May the document be saved, given what is there? `latest` and `old` NULL: nothing. */
static int fsb_registry_allowed_(const fsb_registry_write_ *w, const fsb_registry_doc *doc,
                                 const char *latest, const fsb_registry_doc *old)
{
    if (w->expected && strcmp(w->expected, latest ? latest : "")) return -ESTALE;
    if (w->mode == FSB_REGISTRY_NEW && old) return -EEXIST;
    if (w->mode == FSB_REGISTRY_SWAP && !old) return -ENOENT;
    if (w->mode == FSB_REGISTRY_SWAP && old->change != doc->change) return -ESTALE;
    return 0;
}

/* ---- [scan] ---------------------------------------------------------------------------------- */

/* A walk over rows in the order of their keys (ID 0 complemented version), whatever the store. */
struct fsb_registry_scan_ {
    fsb_registry             *reg;
    const fsb_registry_query *query;
    fsb_registry_range_       range;
    char                      id[FSB_REGISTRY_ID_KEY_]; /* query's id or prefix, as in a key */
    size_t                    id_size;
    int (*fn)(void *user, const fsb_registry_doc *doc);
    void             *user;
    int64_t           matched;
    const uint8_t    *last;    /* id of the row before, where it stands in its key */
    size_t            last_size;
    int               settled; /* latest: this id is done .. */
    int               passed;  /* .. and so many more of its rows were passed over */
    int               holding; /* latest: `held` is this id's newest match that is no release */
    fsb_registry_view held;
};

static size_t fsb_registry_id_key_(char *out, const char *id)
{
    return fsb_registry_key_text_(out, id, strlen(id), FSB_REGISTRY_ID_KEY_, FSB_REGISTRY_ID_HEAD_);
}

/* "d" id 0, and the complemented version if there is one; returns the size. */
static size_t fsb_registry_doc_key_(char *key, const char *id, const fsb_registry_ver_ *ver)
{
    size_t n = 0;
    key[n++] = 'd';
    n += fsb_registry_id_key_(key + n, id);
    key[n++] = 0;
    for (size_t i = 0; ver && i < ver->size; i += 8) { /* eight at a time: both have the room */
        uint64_t word;
        memcpy(&word, ver->key + i, 8);
        word = ~word;
        memcpy(key + n + i, &word, 8);
    }
    return ver ? n + ver->size : n;
}

/* Hands out a match and releases it. */
static int fsb_registry_scan_emit_(fsb_registry_scan_ *scan, fsb_registry_view *view)
{
    ++scan->matched;
    const int err = scan->fn ? scan->fn(scan->user, &view->doc) : 0;
    if (view->block_) fsb_registry_release(view); /* all that a row can own */
    return err;
}

/* The id ends: its newest match was not a release, and nothing better came. */
static int fsb_registry_scan_flush_(fsb_registry_scan_ *scan)
{
    if (!scan->holding) return 0;
    scan->holding = 0;
    return fsb_registry_scan_emit_(scan, &scan->held);
}

/* A row begins: its id and, for `latest`, whether it can be passed over. 1: pass over; 2: fn ended
   the walk. */
static int fsb_registry_scan_key_(fsb_registry_scan_ *scan, const uint8_t *key, size_t id_size)
{
    if (id_size == scan->last_size && !memcmp(key, scan->last, id_size)) {
        scan->passed += scan->settled;
        return scan->settled;
    }
    const int err = fsb_registry_scan_flush_(scan);
    scan->last = key, scan->last_size = id_size;
    scan->settled = scan->passed = 0;
    return err > 0 ? 2 : err;
}

static int fsb_registry_scan_wants_(const fsb_registry_scan_ *scan, const fsb_registry_doc *doc)
{
    const fsb_registry_query *q = scan->query;
    if (q->id && strcmp(doc->id, q->id)) return 0;
    if (q->prefix && strncmp(doc->id, q->prefix, strlen(q->prefix))) return 0;
    if (q->tag && !fsb_registry_has_tag(doc, q->tag)) return 0;
    if (q->field && !fsb_registry_list_has_(doc->fields, q->field, strlen(q->field))) return 0;
    if (!q->range) return 1;
    fsb_registry_ver_ ver;
    if (fsb_registry_ver_read_(&ver, doc->version) < 0) return 0;
    return fsb_registry_range_has_(&scan->range, &ver);
}

/* A row that scan_key_ let through; takes the view. */
static int fsb_registry_scan_row_(fsb_registry_scan_ *scan, int kind, fsb_registry_view *view)
{
    if (!scan->query->latest) return fsb_registry_scan_emit_(scan, view);
    if (kind == FSB_REGISTRY_V_RELEASE_ || scan->query->range) { /* a range says which it wants */
        scan->settled = 1;
        if (scan->holding) fsb_registry_release(&scan->held);
        scan->holding = 0;
        return fsb_registry_scan_emit_(scan, view);
    }
    /* text orders below every semantic version: nothing better can follow the first of them */
    if (!scan->holding) scan->holding = 1, scan->held = *view;
    else fsb_registry_release(view);
    return 0;
}

/* A row that could not be read: told and left out, or the end. */
static int fsb_registry_scan_bad_(fsb_registry_scan_ *scan, const char *what, int err,
                                  const char *text)
{
    if (!scan->query->bad) return fsb_registry_fail_(scan->reg, err, "%.300s: %s", what, text);
    scan->query->bad(scan->user, what, err, text);
    return 0;
}

/* The version part of a row's key, and its kind; 0 if the key is damaged. */
static int fsb_registry_row_kind_(const uint8_t *key, size_t size, size_t *id_size)
{
    const uint8_t *end = (const uint8_t *)memchr(key, 0, size);
    size_t         numbers;
    if (!end || end - key > FSB_REGISTRY_ID_KEY_ || end == key) return 0;
    *id_size = (size_t)(end - key);
    return fsb_registry_ver_kind_(end + 1, size - *id_size - 1, 0xff, &numbers);
}

/* ---- [lmdb] environments --------------------------------------------------------------------- */
/* One tree, the main one (renewing a reader there costs a quarter of a named one), keys by a tag:
     a                                format, shards, names of the indexed fields
     c CHANGE8 SEQUENCE4          ->  deleted u8, id, version: the change feed, big-endian
     c~                           ->  the counters, last of the feed to share a page with its end
     d ID 0 VERSION               ->  the record
     m FIELD=VALUE 0 ID 0 VERSION ->  nothing: index of the fields that desc.indexed names
     t TAG 0 ID 0 VERSION         ->  nothing: index of the tags
   Readers keep a reset transaction in a slot. A slot is found from the thread's own id, so that
   threads seldom meet in a cache line. A map that must move (it is full, or another process made it
   larger) closes the gate, waits until no slot is in use, moves, and opens the gate. A thread that
   has a view passes the closed gate for another: the gate waits for its views anyhow. */

#ifdef FSB_WITH_LMDB

typedef struct fsb_registry_slot_ {
    fsb_registry_env_ *env;
    MDB_txn           *txn; /* NULL until first used; reset while free */
    MDB_cursor        *cursor;
    uintptr_t          owner;  /* thread that took it; 0 while it is free or being taken */
    int                used;
    char               own_line[128 - 4 * sizeof(void *) - sizeof(int)];
} fsb_registry_slot_;

/* Where a record lay that was loaded before; see [lmdb] places. */
typedef struct fsb_registry_place_ {
    uint64_t where; /* the record's address in the map, and above 48 bits its size */
    uint64_t seal;  /* what was asked for and when, mixed with `where` */
} fsb_registry_place_;

typedef struct fsb_registry_places_ {
    struct fsb_registry_places_ *smaller; /* which it replaced: a load may still look into it */
    fsb_registry_place_         *at;      /* [count], four of them to a cache line */
    uint64_t                    *checked; /* [count]; see [lmdb] checks */
    size_t                       count;   /* a power of two */
    size_t                       size;    /* of the block */
} fsb_registry_places_;

/* A meta page as LMDB 0.9 writes it. */
typedef struct fsb_registry_meta_ {
    size_t   page;
    uint16_t head[4];
    uint32_t magic, format;
    void    *address;
    size_t   map;
    struct {
        uint32_t pad;
        uint16_t flags, depth;
        size_t   pages[3], entries, root;
    } trees[2];
    size_t last_page, txn;
} fsb_registry_meta_;

struct fsb_registry_env_ {
    fsb_registry       *reg;
    MDB_env            *env;         /* written with the gate closed; NULL: it got lost */
    uint32_t            opened;      /* how often it was opened again; atomic */
    MDB_dbi             dbi;
    int                 lock_fd;     /* holds the mark that this process has it open */
    char               *indexed;     /* list, as of the last write transaction; by write_lock */
    size_t              indexed_size;
    fsb_registry_slot_ *slots;       /* [desc.max_views] */
    fsb_registry_places_ *places;    /* grows, write_lock held; read without */
    size_t              walked;      /* transaction whose every record was checked; atomic */
    const fsb_registry_meta_ *meta[2]; /* mapped by us, NULL: not as we know them */
    size_t              meta_size;
    int                 gate;        /* 1: readers wait; written under gate_lock, read without */
    uint32_t            passed;      /* readers let through the closed gate */
    pthread_mutex_t     gate_lock;
    pthread_cond_t      gate_cond;   /* the gate opened, or a slot was freed while it is closed */
    pthread_mutex_t     write_lock;  /* held by this process's write transaction or map move */
    uint64_t            commits;     /* guarded by write_lock */
    pthread_mutex_t     queue_lock;  /* guards the rest */
    pthread_cond_t      queue_cond;
    fsb_registry_write_ *head, **tail;
    int                 leading;
};

static int fsb_registry_mdb_error_(int rc)
{
    switch (rc) {
    case 0: return 0;
    case MDB_NOTFOUND: return -ENOENT;
    case MDB_KEYEXIST: return -EEXIST;
    case MDB_INVALID: return -EMEDIUMTYPE;
    case MDB_VERSION_MISMATCH: return -EPROTONOSUPPORT;
    case MDB_MAP_FULL: return -EDQUOT;
    case MDB_READERS_FULL: return -EAGAIN;
    case MDB_TXN_FULL: return -E2BIG;
    case MDB_CORRUPTED: case MDB_PAGE_NOTFOUND: return -EBADMSG;
    case MDB_PANIC: return -EIO;
    default: return rc > 0 ? -rc : rc > -4096 ? rc : -EIO;
    }
}

/* Inside a transaction, LMDB's codes (positive, or below -4096) end it; our own do not. */
static int fsb_registry_hard_(int rc) { return rc > 0 || rc < -4096; }

static uint64_t fsb_registry_hash64_(const char *text, size_t size, uint64_t h)
{
    const char *end = text + size;
    uint64_t    word = 0;
    h ^= size;
    for (; end - text > 8; text += 8) {
        memcpy(&word, text, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    if (size >= 8) memcpy(&word, end - 8, 8); /* some of it for the second time */
    else while (end > text) word = word << 8 | (uint8_t)*--end;
    h ^= word;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u; /* the high half carries what differs most; */
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u; /* once is too little for names that are counted up */
    return h ^ h >> 32;
}

/* Of what a load without a range asks for; never kept longer than this process lives. */
static uint64_t fsb_registry_pick_hash_(const fsb_registry_pick_ *pick)
{
    uint64_t h = fsb_registry_hash64_(pick->id, pick->id_size, 0);
    if (pick->version) h = fsb_registry_hash64_(pick->version, pick->version_size, h);
    return h;
}

static fsb_registry_env_ *fsb_registry_env_of_(fsb_registry *reg, const char *id)
{
    return &reg->envs[fsb_registry_shard_(reg, id)];
}

/* ---- [lmdb] the environment ------------------------------------------------------------------ */

static void fsb_registry_env_name_(char *name, size_t size, const fsb_registry *reg, uint32_t index)
{
    if (index) snprintf(name, size, "%s/data-%u.mdb", reg->path, (unsigned)index);
    else snprintf(name, size, "%s/data.mdb", reg->path);
}

static int fsb_registry_env_try_(fsb_registry *reg, fsb_registry_env_ *env, const char *name,
                                 size_t map)
{
    unsigned flags = MDB_NOSUBDIR | MDB_NOTLS;
    if (reg->desc.read_only) flags |= MDB_RDONLY;
    if (reg->desc.durability == FSB_REGISTRY_ORDERED) flags |= MDB_NOMETASYNC;
    if (reg->desc.durability == FSB_REGISTRY_UNSAFE) flags |= MDB_NOSYNC;
    int rc = mdb_env_create(&env->env);
    if (rc) return rc;
    mdb_env_set_maxreaders(env->env, reg->desc.max_readers);
    mdb_env_set_mapsize(env->env, map);
    rc = mdb_env_open(env->env, name, flags, 0666);
    if (!rc) return 0;
    mdb_env_close(env->env);
    env->env = NULL;
    return rc;
}

/* With the map that the desc asks for, or as much as there is address space for. */
static int fsb_registry_env_map_(fsb_registry *reg, fsb_registry_env_ *env, const char *name)
{
    uint64_t map = reg->desc.map_bytes & ~(uint64_t)4095;
    int      rc = fsb_registry_env_try_(reg, env, name, (size_t)map);
    for (; rc == ENOMEM && map > 16u << 20; map /= 2)
        rc = fsb_registry_env_try_(reg, env, name, (size_t)map / 2 & ~(size_t)4095);
    return rc;
}

/* A transaction that reads, of an environment that nobody else uses yet. */
static int fsb_registry_env_read_(fsb_registry_env_ *env, MDB_txn **txn)
{
    int rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, txn);
    while (rc == MDB_MAP_RESIZED) { /* another process made it larger between these calls */
        rc = mdb_env_set_mapsize(env->env, 0);
        if (!rc) rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, txn);
    }
    return rc;
}

/* ---- [lmdb] the last transaction ------------------------------------------------------------- */
/* Its number stands in the two meta pages at the beginning of the file. A mapping of our own of
   these does not move as LMDB's does: they are read without a slot and without a call. It is left
   out where LMDB lays them out in another way. */

static size_t fsb_registry_meta_txn_(fsb_registry_env_ *env)
{
    const size_t a = __atomic_load_n(&env->meta[0]->txn, __ATOMIC_ACQUIRE);
    const size_t b = __atomic_load_n(&env->meta[1]->txn, __ATOMIC_ACQUIRE);
    return a > b ? a : b;
}

static void fsb_registry_meta_close_(fsb_registry_env_ *env)
{
    if (env->meta[0]) munmap((void *)(uintptr_t)env->meta[0], env->meta_size);
    env->meta[0] = env->meta[1] = NULL;
}

/* During an open, when the map cannot move. */
static void fsb_registry_meta_open_(fsb_registry_env_ *env)
{
    MDB_envinfo before, after;
    MDB_stat    pages;
    mdb_env_stat(env->env, &pages);
    env->meta_size = 2 * (size_t)pages.ms_psize;
    void *map = mmap(NULL, env->meta_size, PROT_READ, MAP_SHARED, env->lock_fd, 0);
    if (map == MAP_FAILED) return;
    env->meta[0] = (const fsb_registry_meta_ *)map;
    env->meta[1] = (const fsb_registry_meta_ *)(void *)((char *)map + pages.ms_psize);
    mdb_env_info(env->env, &before);
    const size_t txn = fsb_registry_meta_txn_(env);
    mdb_env_info(env->env, &after);
    if (env->meta[0]->magic != 0xbeefc0deu || env->meta[0]->format != 1
        || txn < before.me_last_txnid || txn > after.me_last_txnid)
        fsb_registry_meta_close_(env);
}

/* ---- [lmdb] readers -------------------------------------------------------------------------- */

/* No fence between the two: it would cost every load, and the gate looks again by itself. */
static void fsb_registry_slot_free_(fsb_registry_slot_ *slot)
{
    fsb_registry_env_ *env = slot->env;
    __atomic_store_n(&slot->owner, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->used, 0, __ATOMIC_RELEASE);
    if (!__atomic_load_n(&env->gate, __ATOMIC_RELAXED)) return;
    pthread_mutex_lock(&env->gate_lock);
    pthread_cond_broadcast(&env->gate_cond);
    pthread_mutex_unlock(&env->gate_lock);
}

/* Has this thread another view? Then it must not wait for the gate, which waits for that view. */
static int fsb_registry_is_reading_(const fsb_registry_env_ *env, const fsb_registry_slot_ *but,
                                    uintptr_t self)
{
    for (uint32_t i = 0; i < env->reg->desc.max_views; ++i)
        if (&env->slots[i] != but && __atomic_load_n(&env->slots[i].used, __ATOMIC_SEQ_CST)
            && __atomic_load_n(&env->slots[i].owner, __ATOMIC_RELAXED) == self)
            return 1;
    return 0;
}

static void fsb_registry_gate_wait_(fsb_registry_env_ *env)
{
    pthread_mutex_lock(&env->gate_lock);
    while (env->gate) pthread_cond_wait(&env->gate_cond, &env->gate_lock);
    pthread_mutex_unlock(&env->gate_lock);
}

/* A place to begin at among `count` that another thread will seldom begin at. */
static uint32_t fsb_registry_start_(uint32_t count)
{
    const uint64_t spread = ((uintptr_t)pthread_self() * (uint64_t)0x9e3779b97f4a7c15u) >> 32;
    return (uint32_t)(spread * count >> 32);
}

/* Takes a slot: while it is held the map stays where it is. NULL: all are in use. */
static fsb_registry_slot_ *fsb_registry_slot_take_(fsb_registry_env_ *env)
{
    const uintptr_t self = (uintptr_t)pthread_self();
    const uint32_t  count = env->reg->desc.max_views;
    const uint32_t  start = fsb_registry_start_(count);
    for (uint32_t i = 0; i < count;) {
        fsb_registry_slot_ *slot = &env->slots[start + i < count ? start + i : start + i - count];
        int                 unused = 0;
        if (!__atomic_compare_exchange_n(&slot->used, &unused, 1, 0, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED)) {
            ++i;
            continue;
        }
        __atomic_store_n(&slot->owner, self, __ATOMIC_RELAXED);
        if (!__atomic_load_n(&env->gate, __ATOMIC_SEQ_CST)) return slot;
        if (fsb_registry_is_reading_(env, slot, self)) {
            __atomic_add_fetch(&env->passed, 1, __ATOMIC_SEQ_CST);
            return slot;
        }
        fsb_registry_slot_free_(slot);
        fsb_registry_gate_wait_(env);
    }
    return NULL;
}

static int64_t fsb_registry_monotonic_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits until every slot is free, gate_lock held and gate closed. A slot that was seen free may
   have been taken by a thread that was let through: then all are looked at again. */
static int fsb_registry_slots_wait_(fsb_registry_env_ *env, int64_t until)
{
    for (;;) {
        const uint32_t passed = __atomic_load_n(&env->passed, __ATOMIC_SEQ_CST);
        for (uint32_t i = 0; i < env->reg->desc.max_views;) {
            if (!__atomic_load_n(&env->slots[i].used, __ATOMIC_SEQ_CST)) {
                ++i;
                continue;
            }
            const int64_t   now = fsb_registry_monotonic_(), look = now + 1000000;
            struct timespec t;
            if (now > until) return -EBUSY;
            t.tv_sec = (time_t)(look / 1000000000), t.tv_nsec = (long)(look % 1000000000);
            pthread_cond_timedwait(&env->gate_cond, &env->gate_lock, &t);
        }
        if (passed == __atomic_load_n(&env->passed, __ATOMIC_SEQ_CST)) return 0;
    }
}

/* Closes the gate, with write_lock held, and waits until nobody is in the map, nor in the places of
   what it holds, which it forgets. Open it again in any case. */
static int fsb_registry_gate_close_(fsb_registry_env_ *env)
{
    const uint32_t wait_ms = env->reg->desc.wait_ms;
    const int64_t  until = fsb_registry_monotonic_() + (int64_t)wait_ms * 1000000;
    pthread_mutex_lock(&env->gate_lock);
    __atomic_store_n(&env->gate, 1, __ATOMIC_SEQ_CST);
    const int err = fsb_registry_slots_wait_(env, until);
    if (!err) memset(env->places->at, 0, env->places->count * sizeof *env->places->at);
    if (err == -EBUSY)
        return fsb_registry_fail_(env->reg, err, "%s: views stayed pinned for %u ms while the map "
                                  "had to move; release them sooner, or raise map_bytes",
                                  env->reg->path, (unsigned)wait_ms);
    return err;
}

static void fsb_registry_gate_open_(fsb_registry_env_ *env)
{
    __atomic_store_n(&env->gate, 0, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&env->gate_cond);
    pthread_mutex_unlock(&env->gate_lock);
}

static void fsb_registry_env_end_(fsb_registry_env_ *env)
{
    for (uint32_t i = 0; i < env->reg->desc.max_views; ++i) {
        if (!env->slots[i].txn) continue;
        mdb_cursor_close(env->slots[i].cursor);
        mdb_txn_abort(env->slots[i].txn);
        env->slots[i].txn = NULL;
    }
    if (env->env) mdb_env_close(env->env);
    env->env = NULL;
}

/* Opens the environment once more, the gate closed. LMDB gives one up for good when a commit fails
   at its last page, or when the map cannot be made again after it was taken away; the file is whole
   all the same. Returns LMDB's code. */
static int fsb_registry_env_again_(fsb_registry_env_ *env)
{
    char        name[4200];
    struct stat ours, there;
    MDB_txn    *txn;
    fsb_registry_env_end_(env);
    fsb_registry_env_name_(name, sizeof name, env->reg, (uint32_t)(env - env->reg->envs));
    if (fstat(env->lock_fd, &ours) < 0 || stat(name, &there) < 0) return errno;
    if (ours.st_dev != there.st_dev || ours.st_ino != there.st_ino) return ESTALE;
    int rc = fsb_registry_env_map_(env->reg, env, name);
    if (rc) return rc;
    rc = fsb_registry_env_read_(env, &txn);
    if (!rc) {
        rc = mdb_dbi_open(txn, NULL, 0, &env->dbi);
        mdb_txn_abort(txn);
    }
    if (rc) fsb_registry_env_end_(env);
    __atomic_add_fetch(&env->opened, 1, __ATOMIC_RELAXED);
    return rc;
}

/* The same, with write_lock held, if it was opened no more than `opened` times until now. */
static int fsb_registry_mend_(fsb_registry_env_ *env, uint32_t opened)
{
    if (__atomic_load_n(&env->opened, __ATOMIC_RELAXED) != opened && env->env) return 0;
    int err = fsb_registry_gate_close_(env);
    if (!err) {
        const int rc = fsb_registry_env_again_(env);
        err = fsb_registry_mdb_error_(rc);
        if (err) fsb_registry_fail_(env->reg, err, "%s: cannot open it again after a failure: %s",
                                    env->reg->path, mdb_strerror(rc));
    }
    fsb_registry_gate_open_(env);
    return err;
}

/* Moves the map, with write_lock held: to `size`, or with 0 to what another process made it. */
static int fsb_registry_map_move_(fsb_registry_env_ *env, size_t size)
{
    int err = fsb_registry_gate_close_(env);
    if (!err) {
        const int rc = mdb_env_set_mapsize(env->env, size);
        if (rc) fsb_registry_env_again_(env); /* it has none any more */
        err = fsb_registry_mdb_error_(rc);
        if (err) fsb_registry_fail_(env->reg, err, "%s: cannot move the map: %s", env->reg->path,
                                    mdb_strerror(rc));
    }
    fsb_registry_gate_open_(env);
    return err;
}

/* What a reader does where LMDB says that the map is too small (MDB_MAP_RESIZED) or that it gave
   the environment up (MDB_PANIC); `opened` is as of before. */
static int fsb_registry_follow_(fsb_registry_env_ *env, int rc, uint32_t opened)
{
    pthread_mutex_lock(&env->write_lock);
    const int moved = rc == MDB_MAP_RESIZED && env->env;
    const int err = moved ? fsb_registry_map_move_(env, 0) : fsb_registry_mend_(env, opened);
    pthread_mutex_unlock(&env->write_lock);
    return err;
}

static int fsb_registry_slot_begin_(fsb_registry_slot_ *slot)
{
    fsb_registry_env_ *env = slot->env;
    if (!env->env) return MDB_PANIC;
    if (slot->txn) return mdb_txn_renew(slot->txn);
    int rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, &slot->txn);
    if (rc) {
        slot->txn = NULL;
        return rc;
    }
    rc = mdb_cursor_open(slot->txn, env->dbi, &slot->cursor);
    if (rc) {
        mdb_txn_abort(slot->txn);
        slot->txn = NULL;
    }
    return rc;
}

/* Gives a snapshot; end it with fsb_registry_slot_end_(). */
static int fsb_registry_begin_(fsb_registry_env_ *env, fsb_registry_slot_ **out)
{
    for (int checked = 0, mended = 0;;) {
        const uint32_t      opened = __atomic_load_n(&env->opened, __ATOMIC_RELAXED);
        fsb_registry_slot_ *slot = fsb_registry_slot_take_(env);
        int                 dead = 0;
        if (!slot)
            return fsb_registry_fail_(env->reg, -EAGAIN, "%s: all of %u views are pinned; release "
                                      "some, or raise max_views", env->reg->path,
                                      (unsigned)env->reg->desc.max_views);
        int rc = fsb_registry_slot_begin_(slot);
        if (!rc) {
            *out = slot;
            return 0;
        }
        const int full = rc == MDB_READERS_FULL && !checked++;
        if (full) mdb_reader_check(env->env, &dead);
        fsb_registry_slot_free_(slot);
        if (rc == MDB_MAP_RESIZED || (rc == MDB_PANIC && !mended++)) {
            rc = fsb_registry_follow_(env, rc, opened);
            if (rc) return rc;
        } else if (!full) {
            return fsb_registry_fail_(env->reg, fsb_registry_mdb_error_(rc), "%s: %s",
                                      env->reg->path, mdb_strerror(rc));
        }
    }
}

static void fsb_registry_slot_end_(void *pin)
{
    fsb_registry_slot_ *slot = (fsb_registry_slot_ *)pin;
    mdb_txn_reset(slot->txn);
    fsb_registry_slot_free_(slot);
}

/* ---- [lmdb] places --------------------------------------------------------------------------- */
/* The pages of a snapshot never change: where a record lay in the last transaction, there it lies
   until the next one is committed. A load that finds it here saves the search of the tree, which is
   most of its work; the record, which was checked then, is read in the map. No lock: the two words
   of a place are written one after the other, and halves of two writes do not open the seal. There
   are about as many places as ids, so that large registries have them too. */

enum {
    FSB_REGISTRY_PLACES_LEAST_ = 1 << 13, /* in all environments together */
    FSB_REGISTRY_PLACES_MOST_  = 1 << 21,
    FSB_REGISTRY_WAYS_         = 4        /* places that one hash may take: a cache line of them */
};
#define FSB_REGISTRY_MIX_(where) ((where) * 0x9e3779b97f4a7c15u)
#define FSB_REGISTRY_TXN_        (((uint64_t)1 << 40) - 1) /* a century of commits */

/* Makes room for as many ids, if there is memory for it; write_lock held. */
static void fsb_registry_places_fit_(fsb_registry_env_ *env, uint64_t ids)
{
    const uint32_t        shards = env->reg->desc.shards ? env->reg->desc.shards : 1;
    const size_t          most = FSB_REGISTRY_PLACES_MOST_ / shards;
    fsb_registry_places_ *old = env->places, *made;
    size_t                count = FSB_REGISTRY_WAYS_;
    if (old) count = old->count;
    while (count < FSB_REGISTRY_PLACES_LEAST_ / shards || (count < ids && count <= most / 2))
        count *= 2;
    if (old && count == old->count) return;
    const size_t size = sizeof *made + (count + FSB_REGISTRY_WAYS_) * sizeof *made->at
                        + count * sizeof *made->checked;
    made = (fsb_registry_places_ *)fsb_registry_zeroes_(&env->reg->desc.allocator, size);
    if (!made) return;
    const uintptr_t line = FSB_REGISTRY_WAYS_ * sizeof *made->at;
    const uintptr_t at = ((uintptr_t)(made + 1) + line - 1) / line * line;
    made->smaller = old, made->count = count, made->size = size;
    made->at = (fsb_registry_place_ *)at;
    made->checked = (uint64_t *)(made->at + count);
    __atomic_store_n(&env->places, made, __ATOMIC_RELEASE);
}

static void fsb_registry_places_close_(fsb_registry_env_ *env)
{
    for (fsb_registry_places_ *p = env->places, *smaller; p; p = smaller) {
        smaller = p->smaller;
        fsb_registry_free_(&env->reg->desc.allocator, p, p->size);
    }
}

static fsb_registry_place_ *fsb_registry_places_of_(fsb_registry_env_ *env, uint64_t hash)
{
    const fsb_registry_places_ *p = __atomic_load_n(&env->places, __ATOMIC_ACQUIRE);
    return p->at + ((size_t)hash & (p->count - FSB_REGISTRY_WAYS_));
}

/* What the seal keeps: 23 bits of the hash, the transaction, and whether the latest was asked for.
   Never 0, since the first transaction is 1. */
static uint64_t fsb_registry_place_tag_(const fsb_registry_pick_ *pick, uint64_t hash, size_t txn)
{
    const uint64_t low = (txn & FSB_REGISTRY_TXN_) << 1 | !pick->version;
    return (hash & ~(FSB_REGISTRY_TXN_ << 1 | 1)) | low;
}

/* Is this record, checked once before, what is wanted? */
static int fsb_registry_record_is_(const MDB_val *v, const fsb_registry_pick_ *pick)
{
    const uint8_t *p = (const uint8_t *)v->mv_data;
    const size_t   header = fsb_registry_get16_(p + 2);
    const size_t   id = fsb_registry_get16_(p + 4), version = fsb_registry_get16_(p + 6);
    if (id != pick->id_size + 1 || header + id + version > v->mv_size) return 0;
    if (memcmp(p + header, pick->id, id)) return 0;
    return !pick->version || (version == pick->version_size + 1
                              && !memcmp(p + header + id, pick->version, version));
}

static int fsb_registry_place_find_(fsb_registry_env_ *env, const fsb_registry_pick_ *pick,
                                    uint64_t hash, size_t txn, MDB_val *v)
{
    const fsb_registry_place_ *p = fsb_registry_places_of_(env, hash);
    const uint64_t             tag = fsb_registry_place_tag_(pick, hash, txn);
    for (int i = 0; i < FSB_REGISTRY_WAYS_; ++i, ++p) {
        const uint64_t where = __atomic_load_n(&p->where, __ATOMIC_RELAXED);
        const uint64_t seal = __atomic_load_n(&p->seal, __ATOMIC_RELAXED);
        if ((seal ^ FSB_REGISTRY_MIX_(where)) != tag) continue;
        v->mv_data = (void *)(uintptr_t)(where & (((uint64_t)1 << 48) - 1));
        v->mv_size = (size_t)(where >> 48);
        if (fsb_registry_record_is_(v, pick)) return 1;
    }
    return 0;
}

/* Takes a place that an older transaction left, or else one that the hash names. A record of 64 KiB
   needs none: beside reading it, finding it costs nothing. */
static void fsb_registry_place_keep_(fsb_registry_env_ *env, const fsb_registry_pick_ *pick,
                                     uint64_t hash, size_t txn, const MDB_val *v)
{
    fsb_registry_place_ *first = fsb_registry_places_of_(env, hash);
    fsb_registry_place_ *p = first + (hash >> 32) % FSB_REGISTRY_WAYS_;
    const uint64_t       tag = fsb_registry_place_tag_(pick, hash, txn);
    const uint64_t       where = (uintptr_t)v->mv_data | (uint64_t)v->mv_size << 48;
    if (v->mv_size >> 16 || (uint64_t)(uintptr_t)v->mv_data >> 48) return;
    for (int i = 0; i < FSB_REGISTRY_WAYS_; ++i) {
        const uint64_t other = __atomic_load_n(&first[i].seal, __ATOMIC_RELAXED)
                               ^ FSB_REGISTRY_MIX_(__atomic_load_n(&first[i].where,
                                                                   __ATOMIC_RELAXED));
        if ((other >> 1 & FSB_REGISTRY_TXN_) != (txn & FSB_REGISTRY_TXN_)) p = &first[i];
    }
    __atomic_store_n(&p->where, where, __ATOMIC_RELAXED);
    __atomic_store_n(&p->seal, tag ^ FSB_REGISTRY_MIX_(where), __ATOMIC_RELAXED);
}

/* ---- [lmdb] checks --------------------------------------------------------------------------- */
/* Whatever a record says is checked by its sums the first time that this process reads it at its
   place in the map. That it was is remembered by the place and the number of the commit that wrote
   the record, so that it outlives the commits that leave the record where it is. A walk over all of
   a snapshot is remembered as a whole. */

enum { FSB_REGISTRY_WORDS_CHECKED_ = 0, FSB_REGISTRY_ALL_CHECKED_ = 1 };

/* Never 0. The lowest bit is left to what was checked. */
static uint64_t fsb_registry_check_seal_(const uint8_t *record)
{
    const uint64_t change = fsb_registry_get64_(record + FSB_REGISTRY_R_CHANGE_);
    return (uint64_t)(uintptr_t)record << 16 ^ change << 1;
}

static uint64_t *fsb_registry_checks_of_(fsb_registry_env_ *env, uint64_t seal)
{
    const fsb_registry_places_ *p = __atomic_load_n(&env->places, __ATOMIC_ACQUIRE);
    return p->checked + ((size_t)(FSB_REGISTRY_MIX_(seal) >> 32) & (p->count - FSB_REGISTRY_WAYS_));
}

static int fsb_registry_is_checked_(fsb_registry_env_ *env, const uint8_t *record, unsigned what)
{
    const uint64_t  seal = fsb_registry_check_seal_(record);
    const uint64_t *check = fsb_registry_checks_of_(env, seal);
    const uint64_t  either = what ^ FSB_REGISTRY_ALL_CHECKED_; /* all is more than the words */
    for (int i = 0; i < FSB_REGISTRY_WAYS_; ++i)
        if ((__atomic_load_n(&check[i], __ATOMIC_RELAXED) | either)
            == (seal | FSB_REGISTRY_ALL_CHECKED_))
            return 1;
    return 0;
}

/* Takes the entry that knew less of this record, a free one, or one that its hash names. */
static void fsb_registry_check_keep_(fsb_registry_env_ *env, const uint8_t *record, unsigned what)
{
    const uint64_t seal = fsb_registry_check_seal_(record);
    uint64_t      *check = fsb_registry_checks_of_(env, seal);
    int            at = (int)(seal >> 20 & (FSB_REGISTRY_WAYS_ - 1));
    for (int i = FSB_REGISTRY_WAYS_; i-- > 0;)
        if (!__atomic_load_n(&check[i], __ATOMIC_RELAXED)) at = i;
    for (int i = 0; i < FSB_REGISTRY_WAYS_; ++i)
        if (__atomic_load_n(&check[i], __ATOMIC_RELAXED) == seal) at = i;
    __atomic_store_n(&check[at], seal | what, __ATOMIC_RELAXED);
}

/* Reads the record v, whose key after the 'd' is `name`, but not its content. name NULL: it was
   checked before. */
static int fsb_registry_words_(fsb_registry_env_ *env, const MDB_val *name, const MDB_val *v,
                               fsb_registry_doc *doc)
{
    const uint8_t *record = (const uint8_t *)v->mv_data;
    const int      err = fsb_registry_decode_(record, v->mv_size, doc);
    doc->content = NULL; /* nobody has checked it */
    if (err || !name || fsb_registry_is_checked_(env, record, FSB_REGISTRY_WORDS_CHECKED_))
        return err;
    if (!fsb_registry_words_fit_(record, v->mv_size, name)) return -EBADMSG;
    fsb_registry_check_keep_(env, record, FSB_REGISTRY_WORDS_CHECKED_);
    return 0;
}

/* ---- [lmdb] cache of decoded documents ------------------------------------------------------- */
/* An entry holds for as long as its environment's last transaction is the one it was read in. A hit
   takes no lock: it takes a pin, a cache line that is seldom another thread's, follows the bucket,
   and leaves in the pin what it found until the view is released. Who takes an entry out of its
   bucket looks at the pins after that: it waits for those that still search (some 20 ns), and an
   entry that one holds is freed later. Where every pin is in use the cache is passed by. The table
   has two to four buckets an entry: small ones stay in the processor's caches. */

enum {
    FSB_REGISTRY_CACHE_PARTS_ = 64,
    FSB_REGISTRY_PINS_        = 64
};

typedef struct fsb_registry_pin_ {
    void    *holds; /* an entry; the cache: searching; NULL: free */
    uint64_t hits, misses; /* of those that took it, who alone write them */
    char     own_line[128 - sizeof(void *) - 2 * sizeof(uint64_t)];
} fsb_registry_pin_;

typedef struct fsb_registry_entry_ {
    struct fsb_registry_entry_ *next;  /* in its bucket; atomic */
    uint64_t                    hash;
    size_t                      txn;
    int                         latest; /* it was asked for by id, else by id and version */
    int                         hit;    /* since eviction passed it; atomic */
    fsb_registry_doc            doc;    /* its bytes follow the struct */
    size_t                      size;   /* of the whole block */
    struct fsb_registry_entry_ *older;  /* towards the next to be evicted .. */
    struct fsb_registry_entry_ *newer;  /* .. and back */
} fsb_registry_entry_;

typedef struct fsb_registry_shelf_ {
    int                  lock; /* guards the rest and the writing of its buckets */
    fsb_registry_entry_ *oldest, *newest;
    uint64_t             bytes;
} fsb_registry_shelf_;

typedef struct fsb_registry_table_ {
    fsb_registry_entry_ **buckets; /* [mask + 1], behind the struct; those of a part lie apart */
    size_t                mask, size; /* size: of the whole block */
} fsb_registry_table_;

struct fsb_registry_cache_ {
    fsb_registry_pin_    pins[FSB_REGISTRY_PINS_];
    fsb_registry_shelf_  parts[FSB_REGISTRY_CACHE_PARTS_];
    fsb_registry_shelf_  later;   /* out of their buckets, but not of every pin */
    fsb_registry_table_ *table;   /* replaced with every part's lock held; read without */
    size_t               entries; /* in it; atomic */
};

/* A pin that holds `what`, NULL if there is none. */
static fsb_registry_pin_ *fsb_registry_pin_take_(fsb_registry_cache_ *cache, void *what)
{
    const uint32_t start = fsb_registry_start_(FSB_REGISTRY_PINS_);
    for (uint32_t i = 0; i < FSB_REGISTRY_PINS_; ++i) {
        fsb_registry_pin_ *pin = &cache->pins[(start + i) % FSB_REGISTRY_PINS_];
        void              *none = NULL;
        if (!__atomic_load_n(&pin->holds, __ATOMIC_RELAXED)
            && __atomic_compare_exchange_n(&pin->holds, &none, what, 0, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED))
            return pin;
    }
    return NULL;
}

static void fsb_registry_pin_end_(void *pin)
{
    __atomic_store_n(&((fsb_registry_pin_ *)pin)->holds, NULL, __ATOMIC_RELEASE);
}

/* Waits for those that search now. Does one of the pins hold e? */
static int fsb_registry_is_pinned_(fsb_registry_cache_ *cache, const fsb_registry_entry_ *e)
{
    for (int i = 0; i < FSB_REGISTRY_PINS_; ++i) {
        void *holds = __atomic_load_n(&cache->pins[i].holds, __ATOMIC_SEQ_CST);
        while (holds == (void *)cache) {
            sched_yield();
            holds = __atomic_load_n(&cache->pins[i].holds, __ATOMIC_SEQ_CST);
        }
        if (e && holds == (const void *)e) return 1;
    }
    return 0;
}

static fsb_registry_shelf_ *fsb_registry_shelf_of_(fsb_registry_cache_ *cache, uint64_t hash)
{
    return &cache->parts[hash % FSB_REGISTRY_CACHE_PARTS_];
}

static fsb_registry_entry_ **fsb_registry_bucket_(fsb_registry_cache_ *cache, uint64_t hash)
{
    const fsb_registry_table_ *table = __atomic_load_n(&cache->table, __ATOMIC_SEQ_CST);
    return &table->buckets[(size_t)hash & table->mask];
}

/* Held for less than the time that a thread takes to sleep. */
static void fsb_registry_lock_(fsb_registry_shelf_ *part)
{
    while (__atomic_exchange_n(&part->lock, 1, __ATOMIC_ACQUIRE)) sched_yield();
}

static void fsb_registry_unlock_(fsb_registry_shelf_ *part)
{
    __atomic_store_n(&part->lock, 0, __ATOMIC_RELEASE);
}

/* Lock held. */
static void fsb_registry_entry_unqueue_(fsb_registry_shelf_ *part, fsb_registry_entry_ *e)
{
    *(e->older ? &e->older->newer : &part->oldest) = e->newer;
    *(e->newer ? &e->newer->older : &part->newest) = e->older;
    part->bytes -= e->size;
}

/* Lock held. As the newest. */
static void fsb_registry_entry_queue_(fsb_registry_shelf_ *part, fsb_registry_entry_ *e)
{
    e->older = part->newest, e->newer = NULL;
    *(part->newest ? &part->newest->newer : &part->oldest) = e;
    part->newest = e;
    part->bytes += e->size;
}

/* Lock held. Moves it from the table to the list `gone`. Who has come to it in its bucket goes on
   from there as ever. */
static void fsb_registry_entry_drop_(fsb_registry_cache_ *cache, fsb_registry_shelf_ *part,
                                     fsb_registry_entry_ *e, fsb_registry_entry_ **gone)
{
    fsb_registry_entry_ **link = fsb_registry_bucket_(cache, e->hash);
    while (*link != e) link = &(*link)->next;
    __atomic_store_n(link, e->next, __ATOMIC_SEQ_CST);
    fsb_registry_entry_unqueue_(part, e);
    __atomic_sub_fetch(&cache->entries, 1, __ATOMIC_RELAXED);
    e->older = *gone, *gone = e;
}

/* An entry that is pinned still waits among `later`; those that waited and no longer need to are
   added to `gone`: more than there are pins never wait. */
static void fsb_registry_entry_wait_(fsb_registry_cache_ *cache, fsb_registry_entry_ *e,
                                     fsb_registry_entry_ **gone)
{
    fsb_registry_lock_(&cache->later);
    fsb_registry_entry_queue_(&cache->later, e);
    for (fsb_registry_entry_ *old = cache->later.oldest, *newer; old; old = newer) {
        newer = old->newer;
        if (fsb_registry_is_pinned_(cache, old)) continue;
        fsb_registry_entry_unqueue_(&cache->later, old);
        old->older = *gone, *gone = old;
    }
    fsb_registry_unlock_(&cache->later);
}

/* Frees what no pin holds. No lock held, since it calls the allocator. */
static void fsb_registry_gone_(fsb_registry *reg, fsb_registry_entry_ *gone)
{
    while (gone) {
        fsb_registry_entry_ *e = gone;
        gone = e->older;
        if (fsb_registry_is_pinned_(reg->cache, e)) fsb_registry_entry_wait_(reg->cache, e, &gone);
        else fsb_registry_free_(&reg->desc.allocator, e, e->size);
    }
}

/* Lock held. Makes room: what was hit since the last time around gets another round. */
static void fsb_registry_evict_(fsb_registry *reg, fsb_registry_shelf_ *part, size_t size,
                                fsb_registry_entry_ **gone)
{
    const uint64_t limit = reg->desc.cache_bytes / FSB_REGISTRY_CACHE_PARTS_;
    while (part->oldest && part->bytes + size > limit) {
        fsb_registry_entry_ *e = part->oldest;
        if (__atomic_exchange_n(&e->hit, 0, __ATOMIC_RELAXED) && e != part->newest) {
            fsb_registry_entry_unqueue_(part, e);
            fsb_registry_entry_queue_(part, e);
        } else {
            fsb_registry_entry_drop_(reg->cache, part, e, gone);
        }
    }
}

/* With its lock held, or a pin that searches. */
static fsb_registry_entry_ *fsb_registry_entry_find_(fsb_registry_cache_ *cache,
                                                     const fsb_registry_pick_ *pick, uint64_t hash)
{
    fsb_registry_entry_ *e = __atomic_load_n(fsb_registry_bucket_(cache, hash), __ATOMIC_SEQ_CST);
    while (e && (e->hash != hash || e->latest != !pick->version
                 || memcmp(e->doc.id, pick->id, pick->id_size + 1)
                 || (pick->version && strcmp(e->doc.version, pick->version))))
        e = __atomic_load_n(&e->next, __ATOMIC_SEQ_CST);
    return e;
}

static size_t fsb_registry_last_txn_(fsb_registry_env_ *env)
{
    MDB_envinfo info;
    if (env->meta[0]) return fsb_registry_meta_txn_(env);
    fsb_registry_slot_ *slot = fsb_registry_slot_take_(env); /* keeps the map where it is */
    if (!slot) return 0;
    info.me_last_txnid = 0;
    if (env->env) mdb_env_info(env->env, &info);
    fsb_registry_slot_free_(slot);
    return info.me_last_txnid;
}

/* 1: the view is the cached document, as of transaction `txn`. */
static int fsb_registry_cached_(fsb_registry *reg, const fsb_registry_pick_ *pick, uint64_t hash,
                                size_t txn, fsb_registry_view *view)
{
    fsb_registry_pin_ *pin = fsb_registry_pin_take_(reg->cache, reg->cache);
    if (!pin) return 0;
    fsb_registry_entry_ *e = fsb_registry_entry_find_(reg->cache, pick, hash);
    if (!e || e->txn != txn) {
        __atomic_store_n(&pin->misses, pin->misses + 1, __ATOMIC_RELAXED);
        fsb_registry_pin_end_(pin);
        return 0;
    }
    __atomic_store_n(&pin->hits, pin->hits + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&pin->holds, e, __ATOMIC_RELEASE);
    if (!__atomic_load_n(&e->hit, __ATOMIC_RELAXED)) __atomic_store_n(&e->hit, 1, __ATOMIC_RELAXED);
    fsb_registry_view_init_(view, reg);
    view->doc = e->doc, view->pin_ = pin;
    return 1;
}

static fsb_registry_table_ *fsb_registry_table_new_(const fsb_allocator *a, size_t buckets)
{
    const size_t size = sizeof(fsb_registry_table_) + buckets * sizeof(fsb_registry_entry_ *);
    fsb_registry_table_ *table = (fsb_registry_table_ *)fsb_registry_zeroes_(a, size);
    if (!table) return NULL;
    table->buckets = (fsb_registry_entry_ **)(void *)(table + 1);
    table->mask = buckets - 1, table->size = size;
    return table;
}

/* Every part's lock held. Who searches meanwhile may be led to other entries than its own, and then
   finds nothing: every `next` changes once, to one that was moved before, so each search ends. */
static void fsb_registry_table_move_(fsb_registry_table_ *to, const fsb_registry_table_ *from)
{
    for (size_t i = 0; i <= from->mask; ++i) {
        for (fsb_registry_entry_ *e = from->buckets[i], *next; e; e = next) {
            fsb_registry_entry_ **bucket = &to->buckets[(size_t)e->hash & to->mask];
            next = e->next;
            __atomic_store_n(&e->next, *bucket, __ATOMIC_SEQ_CST);
            *bucket = e;
        }
    }
}

/* Makes it so many buckets, unless another has, if there is memory for them. No lock held. */
static void fsb_registry_table_grow_(fsb_registry *reg, size_t buckets)
{
    fsb_registry_cache_ *cache = reg->cache;
    fsb_registry_table_ *made = fsb_registry_table_new_(&reg->desc.allocator, buckets), *old = made;
    if (!made) return;
    for (int i = 0; i < FSB_REGISTRY_CACHE_PARTS_; ++i) fsb_registry_lock_(&cache->parts[i]);
    if (cache->table->mask < made->mask) {
        old = cache->table;
        fsb_registry_table_move_(made, old);
        __atomic_store_n(&cache->table, made, __ATOMIC_SEQ_CST);
    }
    for (int i = 0; i < FSB_REGISTRY_CACHE_PARTS_; ++i) fsb_registry_unlock_(&cache->parts[i]);
    fsb_registry_is_pinned_(cache, NULL); /* waits for those that search in the old one */
    fsb_registry_free_(&reg->desc.allocator, old, old->size);
}

/* Keeps a copy of the view's document, as read in `txn`, and makes the view one of the copy.
   Without memory or a pin, or too large for the cache, the view stays as it is. */
static void fsb_registry_keep_(fsb_registry *reg, const fsb_registry_pick_ *pick, uint64_t hash,
                               size_t txn, fsb_registry_view *view)
{
    const size_t size = sizeof(fsb_registry_entry_) + fsb_registry_doc_size_(&view->doc);
    if (size > reg->desc.cache_bytes / FSB_REGISTRY_CACHE_PARTS_ / 4) return;
    fsb_registry_entry_ *e = (fsb_registry_entry_ *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0,
                                                                      size);
    fsb_registry_pin_   *pin = e ? fsb_registry_pin_take_(reg->cache, e) : NULL;
    if (!pin) {
        fsb_registry_free_(&reg->desc.allocator, e, size);
        return;
    }
    fsb_registry_doc_copy_(&e->doc, &view->doc, (char *)(e + 1));
    e->hash = hash, e->latest = !pick->version, e->txn = txn, e->size = size, e->hit = 0;
    fsb_registry_shelf_ *part = fsb_registry_shelf_of_(reg->cache, hash);
    fsb_registry_entry_ *gone = NULL;
    fsb_registry_lock_(part);
    fsb_registry_entry_ **bucket = fsb_registry_bucket_(reg->cache, hash);
    fsb_registry_entry_  *before = fsb_registry_entry_find_(reg->cache, pick, hash);
    if (before) fsb_registry_entry_drop_(reg->cache, part, before, &gone);
    fsb_registry_evict_(reg, part, size, &gone);
    e->next = *bucket;
    __atomic_store_n(bucket, e, __ATOMIC_SEQ_CST);
    fsb_registry_entry_queue_(part, e);
    const size_t buckets = reg->cache->table->mask + 1;
    const size_t entries = __atomic_add_fetch(&reg->cache->entries, 1, __ATOMIC_RELAXED);
    fsb_registry_unlock_(part);
    fsb_registry_gone_(reg, gone);
    fsb_registry_release(view);
    view->doc = e->doc, view->pin_ = pin;
    if (entries > buckets / 2) fsb_registry_table_grow_(reg, 2 * buckets);
}

static int fsb_registry_cache_open_(fsb_registry *reg)
{
    const fsb_allocator *a = &reg->desc.allocator;
    if (!reg->desc.cache_bytes) return 0;
    reg->cache = (fsb_registry_cache_ *)fsb_registry_zeroes_(a, sizeof *reg->cache);
    if (!reg->cache) return -ENOMEM;
    reg->cache->table = fsb_registry_table_new_(a, 16 * FSB_REGISTRY_CACHE_PARTS_);
    return reg->cache->table ? 0 : -ENOMEM;
}

static void fsb_registry_shelf_close_(fsb_registry *reg, fsb_registry_shelf_ *part)
{
    for (fsb_registry_entry_ *e = part->oldest, *newer; e; e = newer) {
        newer = e->newer;
        fsb_registry_free_(&reg->desc.allocator, e, e->size);
    }
}

static void fsb_registry_cache_close_(fsb_registry *reg)
{
    if (!reg->cache) return;
    for (int i = 0; i < FSB_REGISTRY_CACHE_PARTS_; ++i)
        fsb_registry_shelf_close_(reg, &reg->cache->parts[i]);
    fsb_registry_shelf_close_(reg, &reg->cache->later);
    if (reg->cache->table)
        fsb_registry_free_(&reg->desc.allocator, reg->cache->table, reg->cache->table->size);
    fsb_registry_free_(&reg->desc.allocator, reg->cache, sizeof *reg->cache);
}

/* ---- [lmdb] load ----------------------------------------------------------------------------- */

static MDB_val fsb_registry_val_(const void *data, size_t size)
{
    MDB_val v;
    v.mv_data = (void *)(uintptr_t)data, v.mv_size = size;
    return v;
}

static int fsb_registry_begins_(const MDB_val *v, const char *prefix, size_t size)
{
    if (v->mv_size < size || *(const char *)v->mv_data != *prefix) return 0;
    return size == 1 || !memcmp(v->mv_data, prefix, size); /* a list asks for one byte, each row */
}

/* The latest version under key[0..size), which is room for KEY_ bytes. Usually the first row is it;
   pre-releases are passed over, those of a major.minor.patch with one seek. */
static int fsb_registry_find_latest_(MDB_cursor *cursor, char *key, size_t size, MDB_val *k,
                                     MDB_val *v)
{
    *k     = fsb_registry_val_(key, size);
    int rc = mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
    if (rc) return rc;
    if (!fsb_registry_begins_(k, key, size)) return MDB_NOTFOUND;
    MDB_val first_k = {0, NULL}, first_v = {0, NULL};
    for (;;) {
        const uint8_t *ver = (const uint8_t *)k->mv_data + size;
        size_t         numbers;
        const int kind = fsb_registry_ver_kind_(ver, k->mv_size - size, 0xff, &numbers);
        if (kind == FSB_REGISTRY_V_RELEASE_) return 0;
        if (!kind) return MDB_CORRUPTED;
        if (!first_k.mv_data) first_k = *k, first_v = *v;
        if (kind == FSB_REGISTRY_V_TEXT_ || size + numbers + 1 > FSB_REGISTRY_KEY_) break;
        memcpy(key + size, ver, numbers);
        key[size + numbers] = (char)0xff; /* after the last of its pre-releases */
        *k = fsb_registry_val_(key, size + numbers + 1);
        rc = mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
        if (rc && rc != MDB_NOTFOUND) return rc;
        if (rc || !fsb_registry_begins_(k, key, size)) break;
    }
    *k = first_k, *v = first_v;
    return 0;
}

/* Where a walk for the range can begin: its upper bound, if it is one alternative. */
static const fsb_registry_ver_ *fsb_registry_range_high_(const fsb_registry_range_ *r)
{
    const fsb_registry_ver_ *high = NULL;
    for (int i = 0; i < r->count && r->alternatives == 1; ++i) {
        const fsb_registry_ver_ *v = &r->at[i].ver;
        if (r->at[i].op == FSB_REGISTRY_GT_ || r->at[i].op == FSB_REGISTRY_GE_) continue;
        if (!high || fsb_registry_bytes_compare_(v->key, v->precedence, high->key,
                                                 high->precedence) < 0)
            high = v;
    }
    return high;
}

/* Can no older version be in the range? */
static int fsb_registry_range_below_(const fsb_registry_range_ *r, const fsb_registry_ver_ *v)
{
    for (int i = 0; i < r->count && r->alternatives == 1; ++i) {
        const fsb_registry_ver_ *low = &r->at[i].ver;
        if (r->at[i].op != FSB_REGISTRY_LT_ && r->at[i].op != FSB_REGISTRY_LE_
            && fsb_registry_bytes_compare_(v->key, v->precedence, low->key, low->precedence) < 0)
            return 1;
    }
    return v->kind == FSB_REGISTRY_V_TEXT_;
}

static int fsb_registry_find_range_(MDB_cursor *cursor, char *key, size_t size,
                                    const fsb_registry_range_ *range, MDB_val *k, MDB_val *v)
{
    const fsb_registry_ver_ *high = fsb_registry_range_high_(range);
    size_t                   n = size;
    for (size_t i = 0; high && i < high->precedence; ++i) key[n++] = (char)(high->key[i] ^ 0xff);
    *k     = fsb_registry_val_(key, n);
    int rc = mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
    for (; !rc && fsb_registry_begins_(k, key, size);
         rc = mdb_cursor_get(cursor, k, v, MDB_NEXT)) {
        fsb_registry_ver_ ver;
        if (!fsb_registry_ver_from_key_(&ver, (const uint8_t *)k->mv_data + size,
                                        k->mv_size - size))
            return MDB_CORRUPTED;
        if (fsb_registry_range_below_(range, &ver)) break;
        if (fsb_registry_range_has_(range, &ver)) return 0;
    }
    return rc ? rc : MDB_NOTFOUND;
}

/* Reads a record into the view; a compressed content gets a buffer of its own. name NULL: the
   record was checked before. */
static int fsb_registry_view_record_(fsb_registry_env_ *env, const MDB_val *name, const MDB_val *v,
                                     fsb_registry_view *view)
{
    const uint8_t    *record = (const uint8_t *)v->mv_data;
    fsb_registry_doc *doc = &view->doc;
    int               err = fsb_registry_decode_(record, v->mv_size, doc);
    if (err) return err;
    if (!doc->content) {
        view->block_size_ = (size_t)doc->size + 1;
        view->block_ = fsb_registry_mem_(&env->reg->desc.allocator, NULL, 0, view->block_size_);
        if (!view->block_) return -ENOMEM;
        err = fsb_registry_unpack_(record, v->mv_size, doc, (char *)view->block_);
        if (err) return err;
        doc->content = view->block_;
    }
    if (!name || fsb_registry_is_checked_(env, record, FSB_REGISTRY_ALL_CHECKED_)) return 0;
    if (!fsb_registry_words_fit_(record, v->mv_size, name)
        || !fsb_registry_content_fits_(record, v->mv_size, doc))
        return -EBADMSG;
    fsb_registry_check_keep_(env, record, FSB_REGISTRY_ALL_CHECKED_);
    return 0;
}

/* A key without the tag before it. */
static MDB_val fsb_registry_name_of_(const MDB_val *k)
{
    return fsb_registry_val_((const char *)k->mv_data + 1, k->mv_size - 1);
}

/* Finds the record; *k is its key, in LMDB's memory or in room[KEY_ROOM_]. */
static int fsb_registry_find_(fsb_registry_slot_ *slot, const fsb_registry_pick_ *pick, char *room,
                              MDB_val *k, MDB_val *v)
{
    const MDB_dbi     dbi = slot->env->dbi;
    fsb_registry_ver_ ver;
    if (pick->version) {
        fsb_registry_ver_read_(&ver, pick->version);
        *k = fsb_registry_val_(room, fsb_registry_doc_key_(room, pick->id, &ver));
        return mdb_get(slot->txn, dbi, k, v);
    }
    const size_t size = fsb_registry_doc_key_(room, pick->id, NULL);
    const int    rc = mdb_cursor_renew(slot->txn, slot->cursor);
    if (rc) return rc;
    if (pick->range)
        return fsb_registry_find_range_(slot->cursor, room, size, pick->range, k, v);
    return fsb_registry_find_latest_(slot->cursor, room, size, k, v);
}

static int fsb_registry_find_record_(fsb_registry_slot_ *slot, const fsb_registry_pick_ *pick,
                                     MDB_val *v, fsb_registry_view *view)
{
    char    room[FSB_REGISTRY_KEY_ROOM_];
    MDB_val k;
    int     err = fsb_registry_mdb_error_(fsb_registry_find_(slot, pick, room, &k, v));
    if (err) return err;
    const MDB_val name = fsb_registry_name_of_(&k);
    err = fsb_registry_view_record_(slot->env, &name, v, view);
    if (err) return err;
    return fsb_registry_record_is_(v, pick) ? 0 : -ENOENT; /* hashed alike */
}

static int fsb_registry_lmdb_read_(fsb_registry_env_ *env, const fsb_registry_pick_ *pick,
                                   uint64_t hash, fsb_registry_view *view)
{
    fsb_registry_slot_ *slot;
    MDB_val             v;
    int                 err = fsb_registry_begin_(env, &slot);
    if (err) return err;
    fsb_registry_view_init_(view, env->reg);
    view->slot_ = slot;
    const size_t txn = mdb_txn_id(slot->txn);
    if (!pick->range && fsb_registry_place_find_(env, pick, hash, txn, &v)) {
        err = fsb_registry_view_record_(env, NULL, &v, view);
    } else {
        err = fsb_registry_find_record_(slot, pick, &v, view);
        if (!err && !pick->range) fsb_registry_place_keep_(env, pick, hash, txn, &v);
    }
    if (!err) return 0;
    fsb_registry_release(view);
    if (err == -ENOENT) return err;
    return fsb_registry_fail_(env->reg, err, "%.200s: its record cannot be read: %s; see verify",
                              pick->id, err == -ENOSYS ? "compressed, built without FSB_WITH_ZSTD"
                                                       : strerror(-err));
}

static int fsb_registry_lmdb_load_(fsb_registry *reg, const fsb_registry_pick_ *pick,
                                   fsb_registry_view *view)
{
    fsb_registry_env_ *env = fsb_registry_env_of_(reg, pick->id);
    const uint64_t     hash = pick->range ? 0 : fsb_registry_pick_hash_(pick);
    if (!reg->cache || pick->range) return fsb_registry_lmdb_read_(env, pick, hash, view);
    if (fsb_registry_cached_(reg, pick, hash, fsb_registry_last_txn_(env), view)) return 0;
    const int err = fsb_registry_lmdb_read_(env, pick, hash, view);
    if (err) return err;
    const size_t txn = mdb_txn_id(((fsb_registry_slot_ *)view->slot_)->txn);
    fsb_registry_keep_(reg, pick, hash, txn, view);
    return 0;
}

/* ---- [lmdb] about ---------------------------------------------------------------------------- */
/* "a" holds: magic 16, format u32, shards u32, this one's index u32, list of the indexed fields,
   sum u64 of all this, two zeros (an older release reads the list to the end and wants them).
   The list is read in each transaction that needs it: another process may open the registry with
   another one, and what it then finds and leaves in the index is right for that list only. */

#define FSB_REGISTRY_MAGIC_ "fsb registry\n\0\0" /* with its '\0' 15 bytes, a 16th is zero */
enum { FSB_REGISTRY_A_FORMAT_ = 16, FSB_REGISTRY_A_SHARDS_ = 20, FSB_REGISTRY_A_INDEX_ = 24,
       FSB_REGISTRY_A_LIST_ = 28, FSB_REGISTRY_A_TAIL_ = 10 };

/* The list of the indexed fields; *list is LMDB's. */
static int fsb_registry_indexed_(const fsb_registry_env_ *env, MDB_txn *txn, MDB_val *list)
{
    MDB_val   k = fsb_registry_val_("a", 1), v;
    const int rc = mdb_get(txn, env->dbi, &k, &v);
    if (rc) return rc == MDB_NOTFOUND ? MDB_INVALID : rc;
    const char *p = (const char *)v.mv_data;
    if (v.mv_size <= FSB_REGISTRY_A_LIST_ || p[v.mv_size - 1]
        || (v.mv_size > FSB_REGISTRY_A_LIST_ + 1 && p[v.mv_size - 2]))
        return MDB_CORRUPTED;
    const size_t size = fsb_registry_list_size_(p + FSB_REGISTRY_A_LIST_);
    const size_t end = FSB_REGISTRY_A_LIST_ + size;
    if (end != v.mv_size /* of an older release, without a sum */
        && (end + FSB_REGISTRY_A_TAIL_ != v.mv_size
            || fsb_registry_get64_((const uint8_t *)p + end) != fsb_registry_sum_(p, end, 0)))
        return MDB_CORRUPTED;
    *list = fsb_registry_val_(p + FSB_REGISTRY_A_LIST_, size);
    return 0;
}

/* The same for a writer, which needs a copy: its changes move what LMDB has. */
static int fsb_registry_indexed_copy_(fsb_registry_env_ *env, MDB_txn *txn)
{
    const fsb_allocator *a = &env->reg->desc.allocator;
    MDB_val              list;
    const int            rc = fsb_registry_indexed_(env, txn, &list);
    if (rc) return rc;
    if (env->indexed_size == list.mv_size && !memcmp(env->indexed, list.mv_data, list.mv_size))
        return 0;
    char *copy = (char *)fsb_registry_mem_(a, NULL, 0, list.mv_size);
    if (!copy) return ENOMEM;
    memcpy(copy, list.mv_data, list.mv_size);
    fsb_registry_free_(a, env->indexed, env->indexed_size);
    env->indexed = copy, env->indexed_size = list.mv_size;
    return 0;
}

/* ---- [lmdb] write ---------------------------------------------------------------------------- */

enum { FSB_REGISTRY_COUNTERS_ = 40, FSB_REGISTRY_TRIM_ = 64, FSB_REGISTRY_FEED_TAIL_ = 10 };

typedef struct fsb_registry_txn_ {
    fsb_registry_env_ *env;
    MDB_txn           *txn;
    MDB_cursor        *cursor;
    uint64_t           ids, versions, bytes, trimmed, change; /* the counters */
    uint32_t           sequence;                              /* within this change */
} fsb_registry_txn_;

/* trimmed: the feed has forgotten everything up to that change. */
static int fsb_registry_counters_read_(fsb_registry_txn_ *t)
{
    MDB_val   k = fsb_registry_val_("c~", 2), v;
    const int rc = mdb_get(t->txn, t->env->dbi, &k, &v);
    if (rc) return rc == MDB_NOTFOUND ? MDB_INVALID : rc;
    const uint8_t *p = (const uint8_t *)v.mv_data;
    if (v.mv_size < FSB_REGISTRY_COUNTERS_) return MDB_CORRUPTED;
    if (v.mv_size > FSB_REGISTRY_COUNTERS_ /* else of an older release, without a sum */
        && (v.mv_size < FSB_REGISTRY_COUNTERS_ + 8
            || fsb_registry_get64_(p + FSB_REGISTRY_COUNTERS_)
                   != fsb_registry_sum_(p, FSB_REGISTRY_COUNTERS_, 0)))
        return MDB_CORRUPTED;
    t->ids = fsb_registry_get64_(p), t->versions = fsb_registry_get64_(p + 8);
    t->bytes = fsb_registry_get64_(p + 16), t->trimmed = fsb_registry_get64_(p + 24);
    t->change = fsb_registry_get64_(p + 32);
    return 0;
}

static int fsb_registry_counters_write_(fsb_registry_txn_ *t)
{
    uint8_t p[FSB_REGISTRY_COUNTERS_ + 8];
    MDB_val k = fsb_registry_val_("c~", 2), v = fsb_registry_val_(p, sizeof p);
    fsb_registry_set_(p, t->ids, 8), fsb_registry_set_(p + 8, t->versions, 8);
    fsb_registry_set_(p + 16, t->bytes, 8), fsb_registry_set_(p + 24, t->trimmed, 8);
    fsb_registry_set_(p + 32, t->change, 8);
    fsb_registry_set_(p + 40, fsb_registry_sum_(p, FSB_REGISTRY_COUNTERS_, 0), 8);
    return mdb_put(t->txn, t->env->dbi, &k, &v, 0);
}

static size_t fsb_registry_feed_key_(uint8_t key[13], uint64_t change, uint32_t sequence)
{
    key[0] = 'c';
    for (int i = 0; i < 8; ++i) key[1 + i] = (uint8_t)(change >> (56 - 8 * i));
    for (int i = 0; i < 4; ++i) key[9 + i] = (uint8_t)(sequence >> (24 - 8 * i));
    return 13;
}

/* The change number of a row of the feed, 0 if it is none. */
static uint64_t fsb_registry_feed_change_(const MDB_val *k)
{
    const uint8_t *p = (const uint8_t *)k->mv_data;
    uint64_t       change = 0;
    if (k->mv_size != 13 || p[0] != 'c') return 0;
    for (int i = 1; i < 9; ++i) change = change << 8 | p[i];
    return change;
}

/* A row: deleted u8, id, version; then, but for older releases' rows, 0, this sum u64, 0. */
static uint64_t fsb_registry_feed_sum_(const MDB_val *k, const uint8_t *row, size_t size)
{
    return fsb_registry_sum_(row, size, fsb_registry_sum_(k->mv_data, k->mv_size, 0));
}

static int fsb_registry_feed_add_(fsb_registry_txn_ *t, int deleted, const char *id,
                                  const char *version)
{
    uint8_t      key[13];
    uint8_t      row[1 + FSB_REGISTRY_ID_MAX + 1 + FSB_REGISTRY_VERSION_MAX + 1
                     + FSB_REGISTRY_FEED_TAIL_];
    const size_t n = strlen(id) + 1, m = strlen(version) + 1, size = 1 + n + m;
    if (size + FSB_REGISTRY_FEED_TAIL_ > sizeof row) return MDB_CORRUPTED;
    MDB_val k = fsb_registry_val_(key, fsb_registry_feed_key_(key, t->change, t->sequence++));
    row[0] = (uint8_t)deleted;
    memcpy(row + 1, id, n);
    memcpy(row + 1 + n, version, m);
    row[size] = row[size + FSB_REGISTRY_FEED_TAIL_ - 1] = 0;
    fsb_registry_set_(row + size + 1, fsb_registry_feed_sum_(&k, row, size), 8);
    MDB_val v = fsb_registry_val_(row, size + FSB_REGISTRY_FEED_TAIL_);
    return mdb_put(t->txn, t->env->dbi, &k, &v, 0);
}

/* Forgets a few of the oldest changes, if there are more than are to be kept. */
static int fsb_registry_feed_trim_(fsb_registry_txn_ *t)
{
    const uint64_t kept = t->env->reg->desc.changes_kept;
    for (int i = 0; i < FSB_REGISTRY_TRIM_; ++i) {
        MDB_val        k = fsb_registry_val_("c", 1), v;
        const int      rc = mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
        const uint64_t change = rc ? 0 : fsb_registry_feed_change_(&k);
        if (rc || !change || t->change - change < kept) return rc == MDB_NOTFOUND ? 0 : rc;
        const int err = mdb_cursor_del(t->cursor, 0);
        if (err) return err;
        if (t->trimmed < change) t->trimmed = change;
    }
    return 0;
}

/* The key of an index row: tag ('t' or 'm'), term, 0, and the document's key after its 'd'. */
static size_t fsb_registry_index_key_(char *out, char tag, const char *term, const char *key,
                                      size_t key_size)
{
    size_t n = 0;
    out[n++] = tag;
    n += fsb_registry_key_text_(out + n, term, strlen(term), FSB_REGISTRY_TERM_KEY_,
                                FSB_REGISTRY_TERM_HEAD_);
    out[n++] = 0;
    memcpy(out + n, key + 1, key_size - 1);
    return n + key_size - 1;
}

static int fsb_registry_is_indexed_(const char *indexed, const char *field)
{
    const char *equal = strchr(field, '=');
    return equal && fsb_registry_list_has_(indexed, field, (size_t)(equal - field));
}

/* Adds (or takes out) the index rows of one list of a document. */
static int fsb_registry_index_(fsb_registry_txn_ *t, char tag, const char *list, int add,
                               const char *key, size_t key_size)
{
    char row[FSB_REGISTRY_KEY_ROOM_];
    int  rc = 0;
    for (const char *s = fsb_registry_list_first(list); s && !rc; s = fsb_registry_list_next(s)) {
        if (tag == 'm' && !fsb_registry_is_indexed_(t->env->indexed, s)) continue;
        MDB_val k = fsb_registry_val_(row, fsb_registry_index_key_(row, tag, s, key, key_size));
        MDB_val v = fsb_registry_val_("", 0);
        rc = add ? mdb_put(t->txn, t->env->dbi, &k, &v, 0)
                 : mdb_del(t->txn, t->env->dbi, &k, NULL);
        if (!add && rc == MDB_NOTFOUND) rc = 0;
    }
    return rc;
}

/* Takes a record's index rows out. Its texts are copied first: deleting moves what it reads. */
static int fsb_registry_unindex_(fsb_registry_txn_ *t, const fsb_registry_doc *old,
                                 const char *key, size_t key_size)
{
    const fsb_allocator *a = &t->env->reg->desc.allocator;
    const size_t tags = fsb_registry_list_size_(old->tags);
    const size_t fields = fsb_registry_list_size_(old->fields);
    if (tags + fields == 2) return 0;
    char *copy = (char *)fsb_registry_mem_(a, NULL, 0, tags + fields);
    if (!copy) return ENOMEM;
    memcpy(copy, old->tags, tags);
    memcpy(copy + tags, old->fields, fields);
    int rc = fsb_registry_index_(t, 't', copy, 0, key, key_size);
    if (!rc) rc = fsb_registry_index_(t, 'm', copy + tags, 0, key, key_size);
    fsb_registry_free_(a, copy, tags + fields);
    return rc;
}

static int fsb_registry_save_one_(fsb_registry_txn_ *t, const fsb_registry_write_ *w, size_t i)
{
    const fsb_registry_doc *doc = &w->docs[i];
    fsb_registry_record_   *rec = &w->records[i];
    fsb_registry_ver_       ver;
    fsb_registry_doc        top, old;
    char                    key[FSB_REGISTRY_KEY_ROOM_], seek[FSB_REGISTRY_KEY_ROOM_];
    MDB_val                 k, v;
    int err = fsb_registry_ver_read_(&ver, doc->version);
    if (err) return err;
    const size_t size = fsb_registry_doc_key_(key, doc->id, &ver);
    const size_t prefix = size - ver.size;
    memcpy(seek, key, prefix);
    int rc = fsb_registry_find_latest_(t->cursor, seek, prefix, &k, &v);
    if (rc && rc != MDB_NOTFOUND) return rc;
    const int known = !rc;
    MDB_val name = fsb_registry_val_((const char *)k.mv_data + 1, known ? k.mv_size - 1 : 0);
    if (known && fsb_registry_words_(t->env, &name, &v, &top) < 0) return MDB_CORRUPTED;
    k  = fsb_registry_val_(key, size), name = fsb_registry_name_of_(&k);
    rc = known ? mdb_get(t->txn, t->env->dbi, &k, &v) : MDB_NOTFOUND;
    if (rc && rc != MDB_NOTFOUND) return rc;
    const int there = !rc;
    if (there && fsb_registry_words_(t->env, &name, &v, &old) < 0) return MDB_CORRUPTED;
    err = fsb_registry_allowed_(w, doc, known ? top.version : NULL, there ? &old : NULL);
    if (err) return err;
    int64_t created = doc->created_ns;
    if (!created) /* of a new one: when it was updated */
        created = (int64_t)fsb_registry_get64_(rec->data + FSB_REGISTRY_R_UPDATED_);
    if (there) {
        if (!doc->created_ns) created = old.created_ns;
        t->bytes -= old.size;
        rc = fsb_registry_unindex_(t, &old, key, size);
        if (rc) return rc;
    }
    fsb_registry_set_(rec->data + FSB_REGISTRY_R_CREATED_, (uint64_t)created, 8);
    fsb_registry_set_(rec->data + FSB_REGISTRY_R_CHANGE_, t->change, 8);
    const uint64_t sum = fsb_registry_record_sum_(rec->data, rec->size, &name);
    fsb_registry_set_(rec->data + FSB_REGISTRY_R_SUM_, sum, 8);
    t->ids += !known, t->versions += !there, t->bytes += doc->size;
    k = fsb_registry_val_(key, size), v = fsb_registry_val_(rec->data, rec->size);
    rc = mdb_put(t->txn, t->env->dbi, &k, &v, 0);
    if (!rc) rc = fsb_registry_index_(t, 't', doc->tags, 1, key, size);
    if (!rc) rc = fsb_registry_index_(t, 'm', doc->fields, 1, key, size);
    return rc ? rc : fsb_registry_feed_add_(t, 0, doc->id, doc->version);
}

/* Takes out what a record that cannot be read has in the indexes: every row that stands for it. */
static int fsb_registry_unindex_all_(fsb_registry_txn_ *t, const char *key, size_t size)
{
    MDB_val k = fsb_registry_val_("m", 1), v;
    int     rc = mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
    for (; !rc; rc = mdb_cursor_get(t->cursor, &k, &v, MDB_NEXT)) {
        const char *p = (const char *)k.mv_data, *end = p + k.mv_size;
        const char *name = (const char *)memchr(p, 0, k.mv_size);
        if ((*p != 'm' && *p != 't') || !name++) continue;
        if ((size_t)(end - name) != size - 1 || memcmp(name, key + 1, size - 1)) continue;
        rc = mdb_cursor_del(t->cursor, 0);
        if (rc) return rc;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* How large the contents are all together, when one is gone that did not tell. */
static int fsb_registry_recount_(fsb_registry_txn_ *t)
{
    MDB_val          k = fsb_registry_val_("d", 1), v;
    fsb_registry_doc doc;
    int              rc = mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
    t->bytes = 0;
    for (; !rc && fsb_registry_begins_(&k, "d", 1);
         rc = mdb_cursor_get(t->cursor, &k, &v, MDB_NEXT))
        if (!fsb_registry_decode_((const uint8_t *)v.mv_data, v.mv_size, &doc))
            t->bytes += doc.size;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Deletes the row at k, v, whose key is copied first. A damaged record is not in the feed. */
static int fsb_registry_delete_row_(fsb_registry_txn_ *t, const MDB_val *row, const MDB_val *v)
{
    char             key[FSB_REGISTRY_KEY_ROOM_];
    char             id[FSB_REGISTRY_ID_MAX + 1], version[FSB_REGISTRY_VERSION_MAX + 1];
    fsb_registry_doc old;
    const size_t     size = row->mv_size;
    int              rc = 0;
    if (size > FSB_REGISTRY_KEY_) return MDB_CORRUPTED;
    memcpy(key, row->mv_data, size);
    const MDB_val name = fsb_registry_name_of_(row);
    const int whole = fsb_registry_words_(t->env, &name, v, &old) == 0
                      && strlen(old.id) < sizeof id && strlen(old.version) < sizeof version;
    if (whole) {
        memcpy(id, old.id, strlen(old.id) + 1);
        memcpy(version, old.version, strlen(old.version) + 1);
        t->bytes -= old.size;
        rc = fsb_registry_unindex_(t, &old, key, size);
    } else rc = fsb_registry_unindex_all_(t, key, size);
    MDB_val k = fsb_registry_val_(key, size);
    if (!rc) rc = mdb_del(t->txn, t->env->dbi, &k, NULL);
    if (!rc && !whole) rc = fsb_registry_recount_(t);
    --t->versions;
    return rc || !whole ? rc : fsb_registry_feed_add_(t, 1, id, version);
}

/* Returns an error; *deleted is the number of versions. */
static int fsb_registry_delete_(fsb_registry_txn_ *t, const fsb_registry_write_ *w,
                                int64_t *deleted)
{
    fsb_registry_ver_ ver;
    char              key[FSB_REGISTRY_KEY_ROOM_];
    MDB_val           k, v;
    int               rc;
    if (w->version && fsb_registry_ver_read_(&ver, w->version) < 0) return -EINVAL;
    const size_t size = fsb_registry_doc_key_(key, w->id, w->version ? &ver : NULL);
    const size_t prefix = w->version ? size - ver.size : size;
    for (*deleted = 0;; ++*deleted) {
        k  = fsb_registry_val_(key, size);
        rc = w->version ? mdb_get(t->txn, t->env->dbi, &k, &v)
                        : mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
        if (rc || !fsb_registry_begins_(&k, key, size)) break;
        rc = fsb_registry_delete_row_(t, &k, &v);
        if (rc) return rc;
    }
    if (rc && rc != MDB_NOTFOUND) return rc;
    if (!*deleted) return -ENOENT;
    k  = fsb_registry_val_(key, prefix);
    rc = mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
    if (rc && rc != MDB_NOTFOUND) return rc;
    if (rc || !fsb_registry_begins_(&k, key, prefix)) --t->ids;
    return 0;
}

/* Returns a hard error; the write's own result goes into it. */
static int fsb_registry_apply_(fsb_registry_txn_ *t, fsb_registry_write_ *w)
{
    int err = 0;
    w->result = 0;
    if (!w->count) err = fsb_registry_delete_(t, w, &w->result);
    for (size_t i = 0; i < w->count && !err; ++i) {
        w->failed = i;
        err = fsb_registry_save_one_(t, w, i);
    }
    if (fsb_registry_hard_(err)) return err;
    if (err) w->result = err;
    return 0;
}

/* One transaction for the whole list, tried once; a hard error fails all of it. A write that is
   refused has changed nothing, except a batch, which therefore comes alone. */
static int fsb_registry_transact_(fsb_registry_env_ *env, fsb_registry_write_ *list)
{
    fsb_registry_txn_ t;
    memset(&t, 0, sizeof t);
    t.env = env;
    int rc = env->env ? mdb_txn_begin(env->env, NULL, 0, &t.txn) : MDB_PANIC, useful = 0;
    if (rc) return rc;
    rc = mdb_cursor_open(t.txn, env->dbi, &t.cursor);
    if (!rc) rc = fsb_registry_counters_read_(&t);
    if (!rc) rc = fsb_registry_indexed_copy_(env, t.txn);
    ++t.change;
    for (fsb_registry_write_ *w = list; w && !rc; w = w->next) {
        rc = fsb_registry_apply_(&t, w);
        useful |= w->result >= 0;
    }
    if (!rc && useful) rc = fsb_registry_feed_trim_(&t);
    if (!rc && useful) rc = fsb_registry_counters_write_(&t);
    if (t.cursor) mdb_cursor_close(t.cursor);
    if (rc || !useful) mdb_txn_abort(t.txn);
    else rc = mdb_txn_commit(t.txn);
    if (!rc && useful) fsb_registry_places_fit_(env, t.ids);
    return rc;
}

static int fsb_registry_grow_(fsb_registry_env_ *env)
{
    MDB_envinfo    info;
    const uint64_t most = env->reg->desc.max_bytes;
    mdb_env_info(env->env, &info);
    const uint64_t now = info.me_mapsize;
    uint64_t       size = now > UINT64_MAX / 2 ? UINT64_MAX : now * 2;
    if (most != FSB_UNLIMITED && size > most) size = most & ~(uint64_t)4095;
    if (size <= now || size > SIZE_MAX)
        return fsb_registry_fail_(env->reg, -EDQUOT, "%s: full: %llu bytes, as max_bytes says; "
                                  "delete versions and back up with compact, or raise max_bytes",
                                  env->reg->path, (unsigned long long)now);
    return fsb_registry_map_move_(env, (size_t)size);
}

/* Commits a list of writes; each ends with its result. */
static void fsb_registry_commit_(fsb_registry_env_ *env, fsb_registry_write_ *list)
{
    int err = 0, rc, dead = 0, mended = 0;
    pthread_mutex_lock(&env->write_lock);
    for (;;) {
        rc = fsb_registry_transact_(env, list);
        if (rc == MDB_PANIC && !mended++) err = fsb_registry_mend_(env, env->opened);
        else if (rc == MDB_MAP_RESIZED) err = fsb_registry_map_move_(env, 0);
        else if (rc == MDB_MAP_FULL) err = fsb_registry_grow_(env);
        else break;
        if (err) break;
    }
    if (++env->commits % 256 == 0 && env->env)
        mdb_reader_check(env->env, &dead); /* they keep pages alive */
    pthread_mutex_unlock(&env->write_lock);
    if (!rc) return;
    if (!err)
        err = fsb_registry_fail_(env->reg, fsb_registry_mdb_error_(rc), "%s: cannot write: %s",
                                 env->reg->path, mdb_strerror(rc));
    for (fsb_registry_write_ *w = list; w; w = w->next) w->result = err;
}

/* Takes from the queue what one commit can hold: a batch alone, else all up to the next batch. */
static fsb_registry_write_ *fsb_registry_dequeue_(fsb_registry_env_ *env)
{
    fsb_registry_write_ *first = env->head, *last = first;
    if (first->count <= 1)
        while (last->next && last->next->count <= 1) last = last->next;
    env->head = last->next;
    if (!env->head) env->tail = &env->head;
    last->next = NULL;
    return first;
}

/* Concurrent writes share a commit: while one thread commits, the others queue; then the first of
   them commits for all. */
static void fsb_registry_lmdb_write_(fsb_registry *reg, const char *id, fsb_registry_write_ *w)
{
    fsb_registry_env_ *env = fsb_registry_env_of_(reg, id);
    w->next = NULL, w->done = 0;
    pthread_mutex_lock(&env->queue_lock);
    *env->tail = w, env->tail = &w->next;
    while (!w->done) {
        if (env->leading || env->head != w) {
            pthread_cond_wait(&env->queue_cond, &env->queue_lock);
            continue;
        }
        fsb_registry_write_ *list = fsb_registry_dequeue_(env);
        env->leading = 1;
        pthread_mutex_unlock(&env->queue_lock);
        fsb_registry_commit_(env, list);
        pthread_mutex_lock(&env->queue_lock);
        env->leading = 0;
        while (list) {
            fsb_registry_write_ *next = list->next;
            list->done = 1, list = next;
        }
        pthread_cond_broadcast(&env->queue_cond);
    }
    pthread_mutex_unlock(&env->queue_lock);
}

static int fsb_registry_lmdb_sync_(fsb_registry *reg)
{
    for (uint32_t i = 0; i < reg->desc.shards; ++i) {
        fsb_registry_env_ *env = &reg->envs[i];
        pthread_mutex_lock(&env->write_lock); /* the map must not move under it */
        const int rc = env->env ? mdb_env_sync(env->env, 1) : MDB_PANIC;
        pthread_mutex_unlock(&env->write_lock);
        if (rc) return fsb_registry_fail_(reg, fsb_registry_mdb_error_(rc), "%s: cannot sync: %s",
                                          reg->path, mdb_strerror(rc));
    }
    return 0;
}

/* ---- [lmdb] each ----------------------------------------------------------------------------- */

enum { FSB_REGISTRY_STEPS_ = 4 }; /* over settled rows, before a seek is cheaper */

/* One environment's part of a walk. The parts are merged by key, so that shards do not show. */
typedef struct fsb_registry_walk_ {
    fsb_registry_env_  *env;
    fsb_registry_slot_ *slot;
    MDB_val             k, v;
    size_t              skip;   /* of k: what stands before ID 0 VERSION */
    int                 rc;
    int                 known;   /* a walk has checked this snapshot */
    int                 partial; /* this one leaves something out */
} fsb_registry_walk_;

/* Where the rows are: the documents, or the index rows of one term. */
typedef struct fsb_registry_source_ {
    char   prefix[FSB_REGISTRY_KEY_ROOM_];
    size_t size; /* all of prefix must stand in a row's key */
    size_t skip;
} fsb_registry_source_;

/* Is the field indexed in all these snapshots? */
static int fsb_registry_walks_indexed_(const fsb_registry_walk_ *walks, uint32_t count,
                                       const char *field, int *indexed)
{
    MDB_val list;
    *indexed = field != NULL;
    for (uint32_t i = 0; i < count && *indexed; ++i) {
        const int rc = fsb_registry_indexed_(walks[i].env, walks[i].slot->txn, &list);
        if (rc) return fsb_registry_mdb_error_(rc);
        *indexed = fsb_registry_is_indexed_((const char *)list.mv_data, field);
    }
    return 0;
}

static void fsb_registry_source_init_(fsb_registry_source_ *s, const fsb_registry_scan_ *scan,
                                      int indexed)
{
    const fsb_registry_query *q = scan->query;
    const char               *term = q->tag ? q->tag : indexed ? q->field : NULL;
    s->prefix[0] = 'd', s->size = 1;
    if (term && !q->id) {
        s->size = fsb_registry_index_key_(s->prefix, q->tag ? 't' : 'm', term, "d", 1);
    }
    s->skip = s->size;
    memcpy(s->prefix + s->size, scan->id, scan->id_size);
    s->size += scan->id_size;
    if (q->id) s->prefix[s->size++] = 0;
}

static void fsb_registry_walk_to_(fsb_registry_walk_ *walk, const fsb_registry_source_ *s,
                                  MDB_cursor_op op)
{
    walk->rc = mdb_cursor_get(walk->slot->cursor, &walk->k, &walk->v, op);
    if (!walk->rc && !fsb_registry_begins_(&walk->k, s->prefix, s->size)) walk->rc = MDB_NOTFOUND;
}

/* Goes past all versions of the id: one seek. */
static void fsb_registry_walk_past_(fsb_registry_walk_ *walk, const fsb_registry_source_ *s,
                                    const fsb_registry_scan_ *scan)
{
    char         key[FSB_REGISTRY_KEY_ROOM_];
    const size_t size = s->skip + scan->last_size + 1;
    memcpy(key, walk->k.mv_data, size);
    key[size - 1] = 1; /* after every ID 0 ... */
    walk->k = fsb_registry_val_(key, size);
    fsb_registry_walk_to_(walk, s, MDB_SET_RANGE);
}

/* The record of a row: its value, or what an index row stands for. */
static int fsb_registry_walk_record_(fsb_registry_walk_ *walk, int indexed, MDB_val *v)
{
    if (!indexed) {
        *v = walk->v;
        return 0;
    }
    char         key[FSB_REGISTRY_KEY_ROOM_];
    const size_t size = walk->k.mv_size - walk->skip;
    if (size > FSB_REGISTRY_KEY_) return MDB_CORRUPTED;
    key[0] = 'd';
    memcpy(key + 1, (const char *)walk->k.mv_data + walk->skip, size);
    MDB_val   k = fsb_registry_val_(key, size + 1);
    const int rc = mdb_get(walk->slot->txn, walk->env->dbi, &k, v);
    return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc; /* a row of an index, without a document */
}

static int fsb_registry_walk_row_(fsb_registry_scan_ *scan, fsb_registry_walk_ *walk, int indexed)
{
    const uint8_t    *key = (const uint8_t *)walk->k.mv_data + walk->skip;
    fsb_registry_view view;
    MDB_val           v;
    size_t            id_size = 0;
    const int         kind = fsb_registry_row_kind_(key, walk->k.mv_size - walk->skip, &id_size);
    if (!kind) return fsb_registry_scan_bad_(scan, "(a key)", -EBADMSG, "damaged key; see verify");
    int err = fsb_registry_scan_key_(scan, key, id_size);
    walk->partial |= err;
    if (err) return err == 1 ? 0 : err;
    fsb_registry_view_init_(&view, scan->reg);
    err = fsb_registry_mdb_error_(fsb_registry_walk_record_(walk, indexed, &v));
    const MDB_val name = fsb_registry_val_(key, walk->k.mv_size - walk->skip);
    if (!err)
        err = fsb_registry_words_(walk->env, walk->known ? NULL : &name, &v, &view.doc);
    walk->partial |= err;
    if (!err && !fsb_registry_scan_wants_(scan, &view.doc)) return 0;
    if (!err && scan->query->content) err = fsb_registry_view_record_(walk->env, &name, &v, &view);
    if (!err) return fsb_registry_scan_row_(scan, kind, &view);
    fsb_registry_release(&view);
    char what[FSB_REGISTRY_ID_KEY_ + 1];
    memcpy(what, key, id_size);
    what[id_size] = 0;
    return fsb_registry_scan_bad_(scan, what, err, "a record that cannot be read; see verify");
}

static int fsb_registry_walk_all_(fsb_registry_scan_ *scan, fsb_registry_walk_ *walks,
                                  uint32_t count, const fsb_registry_source_ *source)
{
    const int indexed = source->prefix[0] != 'd';
    for (;;) {
        fsb_registry_walk_ *walk = NULL;
        for (uint32_t i = 0; i < count; ++i) {
            if (walks[i].rc) continue;
            if (!walk || fsb_registry_bytes_compare_((const uint8_t *)walks[i].k.mv_data,
                                                     walks[i].k.mv_size,
                                                     (const uint8_t *)walk->k.mv_data,
                                                     walk->k.mv_size) < 0)
                walk = &walks[i];
        }
        if (!walk) return fsb_registry_scan_flush_(scan);
        const int err = fsb_registry_walk_row_(scan, walk, indexed);
        if (err) return err;
        if (scan->passed == FSB_REGISTRY_STEPS_) fsb_registry_walk_past_(walk, source, scan);
        else fsb_registry_walk_to_(walk, source, MDB_NEXT);
        if (walk->rc && walk->rc != MDB_NOTFOUND) return fsb_registry_mdb_error_(walk->rc);
    }
}

static int fsb_registry_lmdb_each_(fsb_registry *reg, fsb_registry_scan_ *scan)
{
    fsb_registry_walk_   walks[FSB_REGISTRY_SHARDS_MAX];
    fsb_registry_source_ source;
    fsb_registry_env_   *only = scan->query->id ? fsb_registry_env_of_(reg, scan->query->id) : NULL;
    const uint32_t       count = only ? 1 : reg->desc.shards;
    uint32_t             open = 0;
    int                  err = 0, indexed = 0;
    for (; open < count; ++open) {
        walks[open].env = only ? only : &reg->envs[open];
        err = fsb_registry_begin_(walks[open].env, &walks[open].slot);
        if (err) break;
    }
    if (!err) err = fsb_registry_walks_indexed_(walks, count, scan->query->field, &indexed);
    fsb_registry_source_init_(&source, scan, indexed);
    for (uint32_t i = 0; i < count && !err; ++i) {
        fsb_registry_walk_ *walk = &walks[i];
        const size_t txn = mdb_txn_id(walk->slot->txn);
        walk->skip = source.skip;
        walk->known = __atomic_load_n(&walk->env->walked, __ATOMIC_RELAXED) == txn;
        walk->partial = source.size != 1; /* else it begins with the first document */
        walk->k  = fsb_registry_val_(source.prefix, source.size);
        walk->rc = mdb_cursor_renew(walk->slot->txn, walk->slot->cursor);
        if (!walk->rc) fsb_registry_walk_to_(walk, &source, MDB_SET_RANGE);
        if (walk->rc && walk->rc != MDB_NOTFOUND) err = fsb_registry_mdb_error_(walk->rc);
    }
    if (!err) err = fsb_registry_walk_all_(scan, walks, count, &source);
    for (uint32_t i = 0; i < count && !err; ++i)
        if (!walks[i].partial)
            __atomic_store_n(&walks[i].env->walked, mdb_txn_id(walks[i].slot->txn),
                             __ATOMIC_RELAXED);
    while (open) fsb_registry_slot_end_(walks[--open].slot);
    return err;
}

/* ---- [lmdb] changes -------------------------------------------------------------------------- */

static int fsb_registry_feed_row_(const MDB_val *k, const MDB_val *v, fsb_registry_change *out)
{
    const char *p = (const char *)v->mv_data, *last = p + v->mv_size;
    const char *end = v->mv_size > 3 ? (const char *)memchr(p + 1, 0, v->mv_size - 1) : NULL;
    const char *stop = end ? (const char *)memchr(end + 1, 0, (size_t)(last - end - 1)) : NULL;
    if (!stop || stop == end + 1) return -EBADMSG;
    const size_t size = (size_t)(stop + 1 - p);
    if (stop + 1 != last /* of an older release, without a sum */
        && (size + FSB_REGISTRY_FEED_TAIL_ != v->mv_size
            || fsb_registry_get64_((const uint8_t *)stop + 2)
                   != fsb_registry_feed_sum_(k, (const uint8_t *)p, size)))
        return -EBADMSG;
    out->change = fsb_registry_feed_change_(k), out->deleted = p[0] == 1;
    out->id = p + 1, out->version = end + 1;
    return 0;
}

static int64_t fsb_registry_feed_of_(fsb_registry_env_ *env, uint64_t *at,
                                     int (*fn)(void *user, const fsb_registry_change *change),
                                     void *user, int *ended)
{
    fsb_registry_txn_   t;
    fsb_registry_slot_ *slot;
    uint8_t             key[13];
    MDB_val             k, v;
    int64_t             count = 0;
    int                 err = fsb_registry_begin_(env, &slot);
    if (err) return err;
    memset(&t, 0, sizeof t);
    t.env = env, t.txn = slot->txn;
    int rc = fsb_registry_counters_read_(&t);
    if (!rc && (*at < t.trimmed || *at > t.change)) err = -ESTALE;
    if (!rc) rc = mdb_cursor_renew(slot->txn, slot->cursor);
    k = fsb_registry_val_(key, fsb_registry_feed_key_(key, *at + 1, 0));
    if (!rc && !err && *at < t.change) {
        rc = mdb_cursor_get(slot->cursor, &k, &v, MDB_SET_RANGE);
        while (!rc && fsb_registry_feed_change_(&k) && !*ended && !err) {
            fsb_registry_change change;
            err = fsb_registry_feed_row_(&k, &v, &change);
            if (!err) err = fn(user, &change), ++count;
            if (err > 0) *ended = 1, *at = change.change, err = 0;
            rc = mdb_cursor_get(slot->cursor, &k, &v, MDB_NEXT);
        }
        if (!rc || rc == MDB_NOTFOUND) rc = 0;
    }
    if (!rc && !err && !*ended) *at = t.change;
    fsb_registry_slot_end_(slot);
    if (rc) err = fsb_registry_mdb_error_(rc);
    if (err == -ESTALE)
        return fsb_registry_fail_(env->reg, err, "%s: only changes %llu to %llu are known; "
                                  "walk everything and watch from now", env->reg->path,
                                  (unsigned long long)t.trimmed + 1, (unsigned long long)t.change);
    return err ? err : count;
}

static int64_t fsb_registry_lmdb_changes_(fsb_registry *reg, fsb_registry_position *at,
                                          int (*fn)(void *user, const fsb_registry_change *change),
                                          void *user)
{
    fsb_registry_position to = *at;
    int64_t               count = 0;
    int                   ended = 0;
    for (uint32_t i = 0; i < reg->desc.shards && !ended; ++i) {
        const int64_t n = fsb_registry_feed_of_(&reg->envs[i], &to.at[i], fn, user, &ended);
        if (n < 0) return n;
        count += n;
    }
    *at = to;
    return count;
}

/* The counters of an environment, as of now. */
static int fsb_registry_counters_now_(fsb_registry_env_ *env, fsb_registry_txn_ *t)
{
    fsb_registry_slot_ *slot;
    const int           err = fsb_registry_begin_(env, &slot);
    if (err) return err;
    memset(t, 0, sizeof *t);
    t->env = env, t->txn = slot->txn;
    const int rc = fsb_registry_counters_read_(t);
    fsb_registry_slot_end_(slot);
    return fsb_registry_mdb_error_(rc);
}

static int fsb_registry_lmdb_now_(fsb_registry *reg, fsb_registry_position *at)
{
    fsb_registry_position now;
    fsb_registry_txn_     t;
    memset(&now, 0, sizeof now);
    for (uint32_t i = 0; i < reg->desc.shards; ++i) {
        const int err = fsb_registry_counters_now_(&reg->envs[i], &t);
        if (err) return err;
        now.at[i] = t.change;
    }
    *at = now;
    return 0;
}

static int fsb_registry_lmdb_stat_(fsb_registry *reg, fsb_registry_stats *out)
{
    for (uint32_t i = 0; i < reg->desc.shards; ++i) {
        fsb_registry_env_ *env = &reg->envs[i];
        fsb_registry_txn_  t;
        MDB_envinfo        info;
        struct stat        st;
        const int          err = fsb_registry_counters_now_(env, &t);
        if (err) return err;
        out->ids += t.ids, out->versions += t.versions, out->content_bytes += t.bytes;
        if (t.change > out->last_change) out->last_change = t.change;
        memset(&info, 0, sizeof info);
        pthread_mutex_lock(&env->write_lock); /* the map must not move under it */
        if (env->env) mdb_env_info(env->env, &info);
        pthread_mutex_unlock(&env->write_lock);
        out->map_bytes += info.me_mapsize, out->readers += info.me_numreaders;
        if (fstat(env->lock_fd, &st) == 0) out->file_bytes += (uint64_t)st.st_size;
        for (uint32_t s = 0; s < reg->desc.max_views; ++s)
            out->views += (uint32_t)__atomic_load_n(&env->slots[s].used, __ATOMIC_RELAXED);
    }
    for (int i = 0; reg->cache && i < FSB_REGISTRY_PINS_; ++i) {
        const fsb_registry_pin_ *pin = &reg->cache->pins[i];
        out->cache_hits += __atomic_load_n(&pin->hits, __ATOMIC_RELAXED);
        out->cache_misses += __atomic_load_n(&pin->misses, __ATOMIC_RELAXED);
    }
    return 0;
}

/* ---- [lmdb] verify --------------------------------------------------------------------------- */

typedef struct fsb_registry_check_ {
    fsb_registry_env_ *env;
    MDB_txn           *txn;
    fsb_registry_bad_  bad;
    void              *user;
    int64_t            problems;
    uint64_t           ids, versions, bytes, terms, index_rows;
    uint64_t           trimmed, change;
    MDB_val            indexed;
    char               last[FSB_REGISTRY_ID_KEY_];
    size_t             last_size;
} fsb_registry_check_;

static void fsb_registry_problem_(fsb_registry_check_ *c, const char *what, int err,
                                  const char *text)
{
    ++c->problems;
    if (c->bad) c->bad(c->user, what, err, text);
}

static int fsb_registry_has_row_(fsb_registry_check_ *c, const char *key, size_t size)
{
    MDB_val k = fsb_registry_val_(key, size), v;
    return mdb_get(c->txn, c->env->dbi, &k, &v) == 0;
}

static void fsb_registry_check_terms_(fsb_registry_check_ *c, const fsb_registry_doc *doc, char tag,
                                      const char *list, const char *key, size_t size)
{
    char row[FSB_REGISTRY_KEY_ROOM_];
    for (const char *s = fsb_registry_list_first(list); s; s = fsb_registry_list_next(s)) {
        if (tag == 'm' && !fsb_registry_is_indexed_((const char *)c->indexed.mv_data, s)) continue;
        if (fsb_registry_list_has_(s + strlen(s) + 1, s, strlen(s))) continue; /* told once */
        ++c->terms;
        if (!fsb_registry_has_row_(c, row, fsb_registry_index_key_(row, tag, s, key, size)))
            fsb_registry_problem_(c, doc->id, -EBADMSG, "a tag or field is missing in its index");
    }
}

static void fsb_registry_check_doc_(fsb_registry_check_ *c, const MDB_val *k, const MDB_val *v)
{
    char              key[FSB_REGISTRY_KEY_ROOM_];
    uint8_t           hash[32];
    fsb_registry_ver_ ver;
    fsb_registry_view view;
    size_t            id_size = 0;
    fsb_registry_view_init_(&view, c->env->reg);
    ++c->versions;
    const MDB_val name = fsb_registry_name_of_(k);
    const uint8_t *id = (const uint8_t *)name.mv_data;
    if (!fsb_registry_row_kind_(id, name.mv_size, &id_size)) {
        fsb_registry_problem_(c, "(a key)", -EBADMSG, "a damaged key");
        return;
    }
    if (id_size != c->last_size || memcmp(c->last, id, id_size)) ++c->ids;
    memcpy(c->last, id, id_size);
    c->last_size = id_size;
    int err = fsb_registry_view_record_(c->env, NULL, v, &view);
    if (!err && !fsb_registry_words_fit_((const uint8_t *)v->mv_data, v->mv_size, &name))
        err = -EBADMSG;
    if (err) {
        memcpy(key, id, id_size);
        key[id_size] = 0;
        fsb_registry_problem_(c, key, err, "a record that cannot be read");
        fsb_registry_release(&view);
        return;
    }
    const fsb_registry_doc *doc = &view.doc;
    const char             *why;
    c->bytes += doc->size;
    if (fsb_registry_doc_check_(doc, &why) < 0) {
        fsb_registry_problem_(c, doc->id, -EBADMSG, why);
    } else if (fsb_registry_ver_read_(&ver, doc->version) < 0
               || fsb_registry_doc_key_(key, doc->id, &ver) != k->mv_size
               || memcmp(key, k->mv_data, k->mv_size)) {
        fsb_registry_problem_(c, doc->id, -EBADMSG, "the record is another document's");
    } else {
        fsb_registry_check_terms_(c, doc, 't', doc->tags, key, k->mv_size);
        fsb_registry_check_terms_(c, doc, 'm', doc->fields, key, k->mv_size);
    }
    fsb_registry_hash_(doc->content, (size_t)doc->size, hash);
    if (memcmp(hash, doc->hash, sizeof hash))
        fsb_registry_problem_(c, doc->id, -EBADMSG, "the content is not what was saved (hash)");
    fsb_registry_release(&view);
}

/* An index row must stand for a document. That the document has the term follows from the count. */
static void fsb_registry_check_index_(fsb_registry_check_ *c, const MDB_val *k)
{
    char        key[FSB_REGISTRY_KEY_ROOM_];
    const char *p = (const char *)k->mv_data;
    const char *end = (const char *)memchr(p, 0, k->mv_size);
    ++c->index_rows;
    if (end && k->mv_size <= FSB_REGISTRY_KEY_) {
        const size_t size = k->mv_size - (size_t)(end + 1 - p);
        key[0] = 'd';
        memcpy(key + 1, end + 1, size);
        if (fsb_registry_has_row_(c, key, size + 1)) return;
    }
    fsb_registry_problem_(c, "(an index row)", -EBADMSG, "it stands for no document");
}

static void fsb_registry_check_feed_(fsb_registry_check_ *c, const MDB_val *k, const MDB_val *v)
{
    fsb_registry_change change;
    if (k->mv_size == 2 && !memcmp(k->mv_data, "c~", 2)) return;
    if (!fsb_registry_feed_change_(k) || fsb_registry_feed_row_(k, v, &change) < 0
        || change.change <= c->trimmed || change.change > c->change)
        fsb_registry_problem_(c, "(the change feed)", -EBADMSG, "a damaged row");
}

static int64_t fsb_registry_verify_env_(fsb_registry_env_ *env, fsb_registry_bad_ bad, void *user)
{
    fsb_registry_slot_ *slot;
    fsb_registry_check_ c;
    fsb_registry_txn_   t;
    MDB_val             k, v;
    const int           err = fsb_registry_begin_(env, &slot);
    if (err) return err;
    memset(&c, 0, sizeof c);
    memset(&t, 0, sizeof t);
    t.env = c.env = env, t.txn = c.txn = slot->txn, c.bad = bad, c.user = user;
    if (fsb_registry_counters_read_(&t))
        fsb_registry_problem_(&c, "(the counters)", -EBADMSG, "they cannot be read");
    c.trimmed = t.trimmed, c.change = t.change;
    if (fsb_registry_indexed_(env, c.txn, &c.indexed)) {
        c.indexed = fsb_registry_val_("", 1);
        fsb_registry_problem_(&c, "(what it is)", -EBADMSG, "it cannot be read");
    }
    int rc = mdb_cursor_renew(slot->txn, slot->cursor);
    if (!rc) rc = mdb_cursor_get(slot->cursor, &k, &v, MDB_FIRST);
    for (; !rc; rc = mdb_cursor_get(slot->cursor, &k, &v, MDB_NEXT)) {
        switch (k.mv_size ? *(const char *)k.mv_data : 0) {
        case 'a': break;
        case 'c': fsb_registry_check_feed_(&c, &k, &v); break;
        case 'd': fsb_registry_check_doc_(&c, &k, &v); break;
        case 'm': case 't': fsb_registry_check_index_(&c, &k); break;
        default: fsb_registry_problem_(&c, "(a key)", -EBADMSG, "of no known kind");
        }
    }
    if (rc != MDB_NOTFOUND) fsb_registry_problem_(&c, "(the tree)", -EBADMSG, mdb_strerror(rc));
    if (c.terms != c.index_rows)
        fsb_registry_problem_(&c, "(the indexes)", -EBADMSG, "rows that no document asks for");
    if (c.ids != t.ids || c.versions != t.versions || c.bytes != t.bytes)
        fsb_registry_problem_(&c, "(the counters)", -EBADMSG, "they do not count what is there");
    fsb_registry_slot_end_(slot);
    return c.problems;
}

static int64_t fsb_registry_lmdb_verify_(fsb_registry *reg, fsb_registry_bad_ bad, void *user)
{
    int64_t problems = 0;
    for (uint32_t i = 0; i < reg->desc.shards; ++i) {
        const int64_t n = fsb_registry_verify_env_(&reg->envs[i], bad, user);
        if (n < 0) return n;
        problems += n;
    }
    return problems;
}

/* ---- [lmdb] open ----------------------------------------------------------------------------- */

static int fsb_registry_about_write_(fsb_registry *reg, MDB_txn *txn, MDB_dbi dbi, uint32_t index,
                                     const char *indexed)
{
    const size_t list = fsb_registry_list_size_(indexed), end = FSB_REGISTRY_A_LIST_ + list;
    const size_t size = end + FSB_REGISTRY_A_TAIL_;
    uint8_t *p = (uint8_t *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0, size);
    if (!p) return ENOMEM;
    memset(p, 0, size);
    memcpy(p, FSB_REGISTRY_MAGIC_, sizeof FSB_REGISTRY_MAGIC_);
    fsb_registry_set_(p + FSB_REGISTRY_A_FORMAT_, FSB_REGISTRY_FORMAT_, 4);
    fsb_registry_set_(p + FSB_REGISTRY_A_SHARDS_, reg->desc.shards, 4);
    fsb_registry_set_(p + FSB_REGISTRY_A_INDEX_, index, 4);
    if (list > 1) memcpy(p + FSB_REGISTRY_A_LIST_, indexed, list);
    fsb_registry_set_(p + end, fsb_registry_sum_(p, end, 0), 8);
    MDB_val   k = fsb_registry_val_("a", 1), v = fsb_registry_val_(p, size);
    const int rc = mdb_put(txn, dbi, &k, &v, 0);
    fsb_registry_free_(&reg->desc.allocator, p, size);
    return rc;
}

/* Makes an environment aside and renames it: whoever finds data.mdb finds it whole. The folder is
   locked. */
static int fsb_registry_env_create_(fsb_registry *reg, uint32_t index)
{
    char              aside[4200], name[4200];
    MDB_env          *env;
    fsb_registry_txn_ t;
    fsb_registry_env_ self;
    memset(&t, 0, sizeof t);
    memset(&self, 0, sizeof self);
    snprintf(aside, sizeof aside, "%s/create.tmp", reg->path);
    fsb_registry_env_name_(name, sizeof name, reg, index);
    unlink(aside); /* of a creation that was killed */
    int rc = mdb_env_create(&env);
    if (rc) return fsb_registry_mdb_error_(rc);
    mdb_env_set_mapsize(env, 1 << 20);
    rc = mdb_env_open(env, aside, MDB_NOSUBDIR | MDB_NOLOCK, 0666);
    if (!rc) rc = mdb_txn_begin(env, NULL, 0, &t.txn);
    if (!rc) rc = mdb_dbi_open(t.txn, NULL, 0, &self.dbi);
    t.env = &self;
    if (!rc) rc = fsb_registry_about_write_(reg, t.txn, self.dbi, index, reg->desc.indexed);
    if (!rc) rc = fsb_registry_counters_write_(&t);
    if (!rc) rc = mdb_txn_commit(t.txn);
    else if (t.txn) mdb_txn_abort(t.txn);
    mdb_env_close(env);
    if (!rc && (rename(aside, name) < 0 || fsync(reg->dir) < 0)) rc = errno;
    if (!rc) return 0;
    unlink(aside);
    return fsb_registry_fail_(reg, fsb_registry_mdb_error_(rc), "%s: cannot create it: %s", name,
                              mdb_strerror(rc));
}

/* Creates what is missing: data.mdb last, since its presence says that all is there. */
static int fsb_registry_lmdb_create_(fsb_registry *reg)
{
    while (flock(reg->dir, LOCK_EX) < 0) /* two creators: the second finds it done */
        if (errno != EINTR) return -errno;
    const int there = fsb_registry_there_(reg, "data.mdb");
    int       err = there < 0 ? there : 0;
    if (!there) {
        if (!reg->desc.shards) reg->desc.shards = 1;
        for (uint32_t i = reg->desc.shards; i-- && !err;) err = fsb_registry_env_create_(reg, i);
    }
    flock(reg->dir, LOCK_UN);
    return err;
}

/* Marks the file as open in this process: a second MDB_env on it would break the locks of both. */
static int fsb_registry_env_mark_(fsb_registry *reg, fsb_registry_env_ *env, const char *name)
{
    struct flock mark;
    struct stat  st;
    env->lock_fd = open(name, O_RDWR | O_CLOEXEC);
    const int writable = env->lock_fd >= 0;
    if (!writable && reg->desc.read_only) env->lock_fd = open(name, O_RDONLY | O_CLOEXEC);
    if (env->lock_fd < 0)
        return fsb_registry_fail_(reg, -errno, "%s: cannot open it: %s", name, strerror(errno));
    memset(&mark, 0, sizeof mark);
    mark.l_type = F_WRLCK, mark.l_whence = SEEK_SET, mark.l_len = 1;
    mark.l_start = ((off_t)1 << 40) + getpid(); /* nothing is there; a byte for each process */
    if (writable && fcntl(env->lock_fd, F_OFD_SETLK, &mark) < 0
        && (errno == EAGAIN || errno == EACCES))
        return fsb_registry_fail_(reg, -EBUSY, "%s: this process has it open already; share that "
                                  "object", name);
    if (fstat(env->lock_fd, &st) < 0) return -errno;
    if (!S_ISREG(st.st_mode) || !st.st_size)
        return fsb_registry_fail_(reg, -EMEDIUMTYPE, "%s: not an LMDB file; restore a backup, or "
                                  "name another folder", name);
    return 0;
}

/* Reads "a"; learns the number of shards from the first. */
static int fsb_registry_about_read_(fsb_registry *reg, fsb_registry_env_ *env, MDB_txn *txn,
                                    uint32_t index, const char *name)
{
    MDB_val k = fsb_registry_val_("a", 1), v;
    int     rc = mdb_dbi_open(txn, NULL, 0, &env->dbi);
    if (!rc) rc = mdb_get(txn, env->dbi, &k, &v);
    if (rc && rc != MDB_NOTFOUND) return fsb_registry_mdb_error_(rc);
    const uint8_t *p = (const uint8_t *)v.mv_data;
    if (rc || v.mv_size < FSB_REGISTRY_A_FORMAT_ + 4
        || memcmp(p, FSB_REGISTRY_MAGIC_, sizeof FSB_REGISTRY_MAGIC_))
        return fsb_registry_fail_(reg, -EMEDIUMTYPE, "%s: an LMDB file, but not a registry's; name "
                                  "another folder", name);
    if (fsb_registry_get32_(p + FSB_REGISTRY_A_FORMAT_) > FSB_REGISTRY_FORMAT_)
        return fsb_registry_fail_(reg, -EPROTONOSUPPORT, "%s: of a newer release (format %u, this "
                                  "one reads %d); use that release, or its export", name,
                                  (unsigned)fsb_registry_get32_(p + FSB_REGISTRY_A_FORMAT_),
                                  FSB_REGISTRY_FORMAT_);
    rc = fsb_registry_indexed_copy_(env, txn);
    if (rc == MDB_CORRUPTED)
        return fsb_registry_fail_(reg, -EBADMSG, "%s: damaged; restore a backup", name);
    if (rc) return fsb_registry_mdb_error_(rc);
    const uint32_t shards = fsb_registry_get32_(p + FSB_REGISTRY_A_SHARDS_);
    if (!reg->desc.shards) reg->desc.shards = shards;
    if (!shards || shards != reg->desc.shards || shards > FSB_REGISTRY_SHARDS_MAX
        || fsb_registry_get32_(p + FSB_REGISTRY_A_INDEX_) != index)
        return fsb_registry_fail_(reg, -EINVAL, "%s: is one of %u shards, not of %u; open it with "
                                  "shards 0, or copy it into a new registry", name,
                                  (unsigned)shards, (unsigned)reg->desc.shards);
    return 0;
}

/* A file shorter than its pages say would be a SIGBUS later. */
static int fsb_registry_env_whole_(fsb_registry_env_ *env)
{
    MDB_envinfo info;
    MDB_stat    pages;
    struct stat st;
    mdb_env_info(env->env, &info);
    mdb_env_stat(env->env, &pages);
    return fstat(env->lock_fd, &st) == 0
           && (uint64_t)st.st_size / pages.ms_psize > (uint64_t)info.me_last_pgno;
}

/* The index rows of the fields are made again, for another list of names. */
static int fsb_registry_reindex_(fsb_registry_env_ *env, uint32_t index, MDB_txn *txn)
{
    fsb_registry_txn_ t;
    char              key[FSB_REGISTRY_KEY_ROOM_];
    MDB_val           k = fsb_registry_val_("m", 1), v;
    memset(&t, 0, sizeof t);
    t.env = env, t.txn = txn;
    int rc = mdb_cursor_open(txn, env->dbi, &t.cursor);
    if (rc) return rc;
    while (!rc && !(rc = mdb_cursor_get(t.cursor, &k, &v, MDB_SET_RANGE))
           && fsb_registry_begins_(&k, "m", 1)) {
        rc = mdb_cursor_del(t.cursor, 0);
        k  = fsb_registry_val_("m", 1);
    }
    k = fsb_registry_val_("d", 1);
    if (!rc || rc == MDB_NOTFOUND) rc = mdb_cursor_get(t.cursor, &k, &v, MDB_SET_RANGE);
    while (!rc && fsb_registry_begins_(&k, "d", 1)) {
        const fsb_allocator *a = &env->reg->desc.allocator;
        fsb_registry_doc     doc;
        const size_t         size = k.mv_size;
        if (size > FSB_REGISTRY_KEY_) {
            rc = MDB_CORRUPTED;
            break;
        }
        memcpy(key, k.mv_data, size);
        if (!fsb_registry_decode_((const uint8_t *)v.mv_data, v.mv_size, &doc)) {
            const size_t n = fsb_registry_list_size_(doc.fields);
            char        *copy = (char *)fsb_registry_mem_(a, NULL, 0, n);
            if (copy) memcpy(copy, doc.fields, n); /* adding moves what it reads */
            rc = copy ? fsb_registry_index_(&t, 'm', copy, 1, key, size) : ENOMEM;
            fsb_registry_free_(a, copy, n);
        }
        key[size] = 0;
        k = fsb_registry_val_(key, size + 1);
        if (!rc) rc = mdb_cursor_get(t.cursor, &k, &v, MDB_SET_RANGE);
    }
    mdb_cursor_close(t.cursor);
    if (rc && rc != MDB_NOTFOUND) return rc;
    return fsb_registry_about_write_(env->reg, txn, env->dbi, index, env->indexed);
}

static int fsb_registry_index_names_(fsb_registry *reg, fsb_registry_env_ *env, uint32_t index)
{
    const char  *want = reg->desc.indexed;
    const size_t size = fsb_registry_list_size_(want);
    if (!want || reg->desc.read_only) return 0;
    if (size == env->indexed_size && (size == 1 || !memcmp(want, env->indexed, size))) return 0;
    char *copy = (char *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0, size);
    if (!copy) return -ENOMEM;
    copy[0] = 0;
    if (size > 1) memcpy(copy, want, size);
    fsb_registry_free_(&reg->desc.allocator, env->indexed, env->indexed_size);
    env->indexed = copy, env->indexed_size = size;
    for (;;) {
        MDB_txn *txn;
        int      rc = mdb_txn_begin(env->env, NULL, 0, &txn);
        if (!rc) {
            rc = fsb_registry_reindex_(env, index, txn);
            if (rc) mdb_txn_abort(txn);
            else rc = mdb_txn_commit(txn);
        }
        int err = fsb_registry_mdb_error_(rc);
        if (rc == MDB_MAP_FULL) err = fsb_registry_grow_(env);
        else if (rc == MDB_MAP_RESIZED) err = fsb_registry_map_move_(env, 0);
        else return err;
        if (err) return err;
    }
}

static int fsb_registry_env_init_(fsb_registry *reg, fsb_registry_env_ *env)
{
    pthread_condattr_t monotonic;
    const size_t       size = reg->desc.max_views * sizeof *env->slots;
    env->slots = (fsb_registry_slot_ *)fsb_registry_zeroes_(&reg->desc.allocator, size);
    if (!env->slots) return -ENOMEM;
    for (uint32_t i = 0; i < reg->desc.max_views; ++i) env->slots[i].env = env;
    env->reg = reg, env->tail = &env->head;
    pthread_mutex_init(&env->gate_lock, NULL);
    pthread_mutex_init(&env->write_lock, NULL);
    pthread_mutex_init(&env->queue_lock, NULL);
    pthread_cond_init(&env->queue_cond, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&env->gate_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return 0;
}

/* As many as the counters say there are ids. */
static int fsb_registry_env_places_(fsb_registry_env_ *env, MDB_txn *txn)
{
    fsb_registry_txn_ t;
    memset(&t, 0, sizeof t);
    t.env = env, t.txn = txn;
    if (fsb_registry_counters_read_(&t)) t.ids = 0; /* damaged: verify and writes will tell */
    fsb_registry_places_fit_(env, t.ids);
    return env->places ? 0 : -ENOMEM;
}

static int fsb_registry_env_open_(fsb_registry *reg, uint32_t index)
{
    fsb_registry_env_ *env = &reg->envs[index];
    char               name[4200];
    MDB_txn           *txn;
    int                dead = 0;
    fsb_registry_env_name_(name, sizeof name, reg, index);
    int err = fsb_registry_env_init_(reg, env);
    if (!err) err = fsb_registry_env_mark_(reg, env, name);
    if (err) return err;
    int rc = fsb_registry_env_map_(reg, env, name);
    if (!rc) mdb_reader_check(env->env, &dead);
    if (!rc) rc = fsb_registry_env_read_(env, &txn);
    if (rc)
        return fsb_registry_fail_(reg, fsb_registry_mdb_error_(rc), "%s: cannot open it: %s%s",
                                  name, mdb_strerror(rc), rc == MDB_INVALID
                                  ? "; restore a backup, or name another folder" : "");
    if (!fsb_registry_env_whole_(env))
        err = fsb_registry_fail_(reg, -EBADMSG, "%s: cut short; restore a backup", name);
    if (!err) err = fsb_registry_about_read_(reg, env, txn, index, name);
    if (!err) err = fsb_registry_env_places_(env, txn);
    if (!err) fsb_registry_meta_open_(env);
    mdb_txn_abort(txn);
    return err ? err : fsb_registry_index_names_(reg, env, index);
}

static void fsb_registry_env_close_(fsb_registry *reg, fsb_registry_env_ *env)
{
    if (!env->slots) return; /* never begun */
    if (env->env && !reg->desc.read_only) mdb_env_sync(env->env, 1);
    fsb_registry_env_end_(env);
    fsb_registry_meta_close_(env);
    if (env->lock_fd >= 0) close(env->lock_fd);
    pthread_mutex_destroy(&env->gate_lock);
    pthread_mutex_destroy(&env->write_lock);
    pthread_mutex_destroy(&env->queue_lock);
    pthread_cond_destroy(&env->gate_cond);
    pthread_cond_destroy(&env->queue_cond);
    fsb_registry_free_(&reg->desc.allocator, env->indexed, env->indexed_size);
    fsb_registry_free_(&reg->desc.allocator, env->slots, reg->desc.max_views * sizeof *env->slots);
    fsb_registry_places_close_(env);
}

static void fsb_registry_lmdb_close_(fsb_registry *reg)
{
    if (!reg->envs) return;
    for (uint32_t i = 0; i < FSB_REGISTRY_SHARDS_MAX; ++i)
        fsb_registry_env_close_(reg, &reg->envs[i]);
    fsb_registry_cache_close_(reg);
    fsb_registry_free_(&reg->desc.allocator, reg->envs,
                       FSB_REGISTRY_SHARDS_MAX * sizeof *reg->envs);
}

static int fsb_registry_lmdb_open_(fsb_registry *reg)
{
    const size_t size = FSB_REGISTRY_SHARDS_MAX * sizeof *reg->envs;
    int          err = fsb_registry_there_(reg, "data.mdb");
    if (!err && (reg->desc.read_only || reg->desc.must_exist))
        return fsb_registry_fail_(reg, -ENOENT, "%s: no registry is there; create it with init",
                                  reg->path);
    if (!err) err = fsb_registry_lmdb_create_(reg);
    if (err < 0) return err;
    reg->envs = (fsb_registry_env_ *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0, size);
    if (!reg->envs) return -ENOMEM;
    memset(reg->envs, 0, size);
    for (uint32_t i = 0; i < FSB_REGISTRY_SHARDS_MAX; ++i) reg->envs[i].lock_fd = -1;
    err = fsb_registry_env_open_(reg, 0); /* tells the number of shards */
    for (uint32_t i = 1; !err && i < reg->desc.shards; ++i) err = fsb_registry_env_open_(reg, i);
    return err ? err : fsb_registry_cache_open_(reg);
}

/* ---- [lmdb] backup --------------------------------------------------------------------------- */

/* Copies a snapshot to fd, or to the new file `name`. The slot keeps the map where it is. */
static int fsb_registry_env_copy_(fsb_registry_env_ *env, const char *name, int fd, int compact)
{
    const unsigned flags = compact ? MDB_CP_COMPACT : 0;
    for (int mended = 0;;) {
        const uint32_t      opened = __atomic_load_n(&env->opened, __ATOMIC_RELAXED);
        fsb_registry_slot_ *slot = fsb_registry_slot_take_(env);
        if (!slot) return fsb_registry_fail_(env->reg, -EAGAIN, "all views are pinned");
        int rc = !env->env ? MDB_PANIC
               : name ? mdb_env_copy2(env->env, name, flags)
                      : mdb_env_copyfd2(env->env, fd, flags);
        fsb_registry_slot_free_(slot);
        if (!rc) return 0;
        if (rc != MDB_MAP_RESIZED && (rc != MDB_PANIC || mended++))
            return fsb_registry_fail_(env->reg, fsb_registry_mdb_error_(rc),
                                      "%s: cannot copy it: %s", env->reg->path, mdb_strerror(rc));
        if (name) unlink(name);
        rc = fsb_registry_follow_(env, rc, opened);
        if (rc) return rc;
    }
}

static int fsb_registry_lmdb_backup_(fsb_registry *reg, const char *aside, int compact)
{
    char name[4300];
    for (uint32_t i = 0; i < reg->desc.shards; ++i) {
        if (i) snprintf(name, sizeof name, "%s/data-%u.mdb", aside, (unsigned)i);
        else snprintf(name, sizeof name, "%s/data.mdb", aside);
        int err = fsb_registry_env_copy_(&reg->envs[i], name, -1, compact);
        if (err) return err;
        const int fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return -errno;
        if (fsync(fd) < 0) err = -errno;
        close(fd);
        if (err) return fsb_registry_fail_(reg, err, "%s: %s", name, strerror(-err));
    }
    return 0;
}

static const fsb_registry_ops_ fsb_registry_lmdb_ops_ = {
    fsb_registry_lmdb_close_, fsb_registry_lmdb_load_, fsb_registry_lmdb_each_,
    fsb_registry_lmdb_write_, fsb_registry_lmdb_sync_, fsb_registry_lmdb_changes_,
    fsb_registry_lmdb_now_, fsb_registry_lmdb_stat_, fsb_registry_lmdb_verify_,
    fsb_registry_lmdb_backup_,
};

#else /* without FSB_WITH_LMDB no view has a slot or a pin */
static void fsb_registry_slot_end_(void *slot) { (void)slot; }
static void fsb_registry_pin_end_(void *pin) { (void)pin; }
#endif

/* ---- [folder] names -------------------------------------------------------------------------- */

enum {
    FSB_REGISTRY_PATH_      = 4096, /* an id of 1024 bytes, all written %XX, and a version fit */
    FSB_REGISTRY_NAME_      = 200,  /* longest part of a path; longer ones hold a hash */
    FSB_REGISTRY_NAME_HEAD_ = 150,
    FSB_REGISTRY_WHY_       = 256,
    FSB_REGISTRY_YEAR_MIN_  = 1678, /* of a time, see fsb_registry_is_far_() */
    FSB_REGISTRY_YEAR_MAX_  = 2261,
    FSB_REGISTRY_SETTLE_NS_ = 20000000 /* a change feed waits so long for the clock of files */
};
#define FSB_REGISTRY_MARK_ ".fsb-registry" /* an empty file in the root */

/* Writes one part of a path: what is odd as %XX, what is long as its head, "%~" and a hash. */
static char *fsb_registry_name_put_(char *out, const char *text, size_t size)
{
    const int extension = size >= 3 && !memcmp(text + size - 3, ".md", 3);
    size_t    n = 0;
    for (size_t i = 0; i < size; ++i) {
        const uint8_t c = (uint8_t)text[i];
        const int plain = fsb_registry_word_((char)c) || strchr("_.+@=, ", c) || c >= 0x80;
        /* ".git" and ".." must not come out, nor a folder that looks like a document */
        if (plain && !(c == '.' && (!i || (extension && i == size - 3)))) {
            out[n++] = (char)c;
        } else {
            out[n++] = '%', out[n++] = "0123456789ABCDEF"[c >> 4];
            out[n++] = "0123456789ABCDEF"[c & 15];
        }
    }
    if (n <= FSB_REGISTRY_NAME_) return out + n;
    uint8_t hash[32];
    fsb_registry_hash_(text, size, hash);
    n = FSB_REGISTRY_NAME_HEAD_;
    if (out[n - 1] == '%') n -= 1; /* do not cut a %XX in two */
    else if (out[n - 2] == '%') n -= 2;
    n += (size_t)snprintf(out + n, 3, "%%~");
    for (int i = 0; i < 16; ++i) n += (size_t)snprintf(out + n, 3, "%02x", hash[i]);
    return out + n;
}

/* The folder of an id, with a '/' at its end. */
static void fsb_registry_id_path_(char *out, const char *id)
{
    const char *part = id;
    for (const char *s = id;; ++s) {
        /* a '/' separates folders only between two names that are not empty */
        const int separates = *s == '/' && s != part && s[1] && s[1] != '/';
        if (*s && !separates) continue;
        out = fsb_registry_name_put_(out, part, (size_t)(s - part));
        *out++ = '/';
        if (!*s) break;
        part = s + 1;
    }
    *out = 0;
}

static void fsb_registry_file_path_(char *out, const char *id, const char *version)
{
    fsb_registry_id_path_(out, id);
    out = fsb_registry_name_put_(out + strlen(out), version, strlen(version));
    memcpy(out, ".md", 4);
}

static int fsb_registry_hex_(char c)
{
    if (fsb_registry_digit_(c)) return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads a name back; 1: it holds a hash, so its file must tell. The result is never longer. */
static int fsb_registry_name_get_(char *out, const char *name, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; ++i) {
        if (name[i] == '%' && i + 1 < size && name[i + 1] == '~') return 1;
        const int high = name[i] == '%' && i + 2 < size ? fsb_registry_hex_(name[i + 1]) : -1;
        const int low = high >= 0 ? fsb_registry_hex_(name[i + 2]) : -1;
        if (low >= 0) out[n++] = (char)(high << 4 | low), i += 2;
        else out[n++] = name[i];
    }
    out[n] = 0;
    return 0;
}

/* ---- [folder] front matter ------------------------------------------------------------------- */

typedef struct fsb_registry_matter_ {
    const char *at, *end; /* of what is left of the file */
    int         line, fields;
    char       *out;      /* where the next text goes; there is room for every byte of the file */
    char       *why;      /* [FSB_REGISTRY_WHY_] */
} fsb_registry_matter_;

static int fsb_registry_wrong_(const fsb_registry_matter_ *m, const char *text)
{
    snprintf(m->why, FSB_REGISTRY_WHY_, "line %d: %s", m->line, text);
    return -EBADMSG;
}

static char *fsb_registry_utf8_(char *out, uint32_t c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6), *out++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12), *out++ = (char)(0x80 | (c >> 6 & 63));
        *out++ = (char)(0x80 | (c & 63));
    } else {
        *out++ = (char)(0xf0 | c >> 18), *out++ = (char)(0x80 | (c >> 12 & 63));
        *out++ = (char)(0x80 | (c >> 6 & 63)), *out++ = (char)(0x80 | (c & 63));
    }
    return out;
}

static int fsb_registry_unicode_(const char *s, const char *end, uint32_t *c)
{
    *c = 0;
    if (end - s < 4) return 0;
    for (int i = 0; i < 4; ++i) {
        const int digit = fsb_registry_hex_(s[i]);
        if (digit < 0) return 0;
        *c = *c << 4 | (uint32_t)digit;
    }
    return 1;
}

/* Reads the JSON string at s (its quote) to *out, if there is an out; returns what follows, NULL if
   it is malformed. The text is never longer than what it was read from. */
static const char *fsb_registry_string_(const char *s, const char *end, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char              spare[8], *w = out ? *out : spare;
    for (++s; s < end && *s != '"';) {
        if ((uint8_t)*s < 0x20) return NULL;
        if (!out) w = spare;
        if (*s != '\\') {
            *w++ = *s++;
            continue;
        }
        if (++s == end) return NULL;
        const char *simple = *s ? strchr(from, *s) : NULL;
        uint32_t    c, low;
        if (simple) {
            *w++ = to[simple - from], ++s;
            continue;
        }
        if (*s != 'u' || !fsb_registry_unicode_(s + 1, end, &c)) return NULL;
        s += 5;
        if (c >= 0xd800 && c < 0xe000) { /* two escapes make one character */
            if (c >= 0xdc00 || end - s < 6 || s[0] != '\\' || s[1] != 'u'
                || !fsb_registry_unicode_(s + 2, end, &low) || low < 0xdc00 || low > 0xdfff)
                return NULL;
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00), s += 6;
        }
        if (!c) return NULL; /* no text of ours holds a '\0' */
        w = fsb_registry_utf8_(w, c);
    }
    if (s >= end) return NULL;
    if (out) *w++ = 0, *out = w;
    return s + 1;
}

static const char *fsb_registry_spaces_(const char *s, const char *end)
{
    while (s < end && *s == ' ') ++s;
    return s;
}

/* Reads a value: a JSON string, or plain text up to one of `stops` or the end of the line. */
static const char *fsb_registry_scalar_(fsb_registry_matter_ *m, const char *s, const char *end,
                                        const char *stops)
{
    s = fsb_registry_spaces_(s, end);
    if (s < end && *s == '"') {
        s = fsb_registry_string_(s, end, &m->out);
        if (!s) fsb_registry_wrong_(m, "a string that does not end, or a wrong escape in it");
        return s ? fsb_registry_spaces_(s, end) : NULL;
    }
    const char *from = s, *last = s;
    for (; s < end && !strchr(stops, *s); ++s) {
        const int odd = (s == from && strchr("'[]{}&*!|>%@`#?,-", *s))
                        || (*s == ':' && (s + 1 == end || s[1] == ' '))
                        || (*s == '#' && s > from && s[-1] == ' ') || (uint8_t)*s < 0x20;
        if (odd) {
            fsb_registry_wrong_(m, "put this value in double quotes");
            return NULL;
        }
        if (*s != ' ') last = s + 1;
    }
    memcpy(m->out, from, (size_t)(last - from));
    m->out += last - from, *m->out++ = 0;
    return s;
}

/* "[a, "b c"]" as a list. */
static int fsb_registry_tags_(fsb_registry_matter_ *m, const char *s, const char *end)
{
    s = fsb_registry_spaces_(s, end);
    if (s == end || *s != '[') return fsb_registry_wrong_(m, "tags must be [a, b]");
    s = fsb_registry_spaces_(s + 1, end);
    while (s < end && *s != ']') {
        const char *item = m->out;
        s = fsb_registry_scalar_(m, s, end, ",]");
        if (!s) return -EBADMSG;
        if (!*item) return fsb_registry_wrong_(m, "an empty tag");
        if (s == end || (*s != ',' && *s != ']'))
            return fsb_registry_wrong_(m, "tags must be [a, b]");
        if (*s == ',') s = fsb_registry_spaces_(s + 1, end);
    }
    if (s == end || fsb_registry_spaces_(s + 1, end) != end)
        return fsb_registry_wrong_(m, "tags must be [a, b]");
    *m->out++ = 0;
    return 0;
}

/* "  key: value" becomes "key=value". */
static int fsb_registry_matter_field_(fsb_registry_matter_ *m, const char *s, const char *end,
                                      const char *fields)
{
    char *item = m->out;
    if (++m->fields > FSB_REGISTRY_LIST_MAX) return fsb_registry_wrong_(m, "over 1024 fields");
    s += 2;
    if (s < end && *s == '"') {
        s = fsb_registry_string_(s, end, &m->out);
        if (!s) return fsb_registry_wrong_(m, "a key with a wrong string");
    } else {
        while (s < end && *s != ':' && *s != ' ') *m->out++ = *s++;
        *m->out++ = 0;
    }
    if (s == end || *s != ':') return fsb_registry_wrong_(m, "expected \"  key: value\"");
    if (!*item || strchr(item, '='))
        return fsb_registry_wrong_(m, "a field's key must not be empty or hold '='");
    const size_t size = strlen(item);
    m->out[-1] = '=';
    s = fsb_registry_scalar_(m, s + 1, end, "");
    if (!s) return -EBADMSG;
    *m->out = 0; /* ends the list so far, for the search */
    if (fsb_registry_value_(fields, item, size) != item + size + 1)
        return fsb_registry_wrong_(m, "this field is there twice");
    return s == end ? 0 : fsb_registry_wrong_(m, "text after the string");
}

/* "2026-11-21T02:11:34.5Z"; 0 if it is malformed. */
static int fsb_registry_time_get_(const char *s, int64_t *ns)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd";
    const int         n = (int)sizeof form - 1;
    int64_t           part = 0, unit = 100000000;
    struct tm         t;
    memset(&t, 0, sizeof t);
    for (int i = 0; i < n; ++i)
        if (form[i] == 'd' ? !fsb_registry_digit_(s[i]) : s[i] != form[i]) return 0;
    sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min,
           &t.tm_sec);
    if (t.tm_year < FSB_REGISTRY_YEAR_MIN_ || t.tm_year > FSB_REGISTRY_YEAR_MAX_) return 0;
    if (t.tm_hour > 23 || t.tm_min > 59 || t.tm_sec > 59) return 0;
    s += n;
    if (*s == '.')
        for (++s; fsb_registry_digit_(*s); ++s, unit /= 10) part += (*s - '0') * unit;
    if (strcmp(s, "Z")) return 0;
    t.tm_year -= 1900, t.tm_mon -= 1;
    const int     month = t.tm_mon, day = t.tm_mday;
    const int64_t seconds = (int64_t)timegm(&t);
    if (t.tm_mon != month || t.tm_mday != day) return 0; /* there is no such day */
    *ns = seconds * 1000000000 + part;
    return 1;
}

static void fsb_registry_time_put_(char out[64], int64_t ns)
{
    const int    part = (int)((ns % 1000000000 + 1000000000) % 1000000000);
    const time_t seconds = (time_t)((ns - part) / 1000000000);
    struct tm    t;
    size_t       n;
    gmtime_r(&seconds, &t);
    n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &t);
    snprintf(out + n, 64 - n, ".%09dZ", part);
}

enum { FSB_REGISTRY_M_ID_, FSB_REGISTRY_M_VERSION_, FSB_REGISTRY_M_DESCRIPTION_,
       FSB_REGISTRY_M_TYPE_, FSB_REGISTRY_M_TAGS_, FSB_REGISTRY_M_CREATED_,
       FSB_REGISTRY_M_UPDATED_, FSB_REGISTRY_M_FIELDS_, FSB_REGISTRY_M_KEYS_ };

static const char *const fsb_registry_matter_keys_[FSB_REGISTRY_M_KEYS_] = {
    "id", "version", "description", "type", "tags", "created", "updated", "fields"
};

/* One "key: value" line at the top level. */
static int fsb_registry_matter_line_(fsb_registry_matter_ *m, const char *s, const char *end,
                                     const char *text[FSB_REGISTRY_M_KEYS_], int *key)
{
    const char *colon = (const char *)memchr(s, ':', (size_t)(end - s));
    if (!colon) return fsb_registry_wrong_(m, "expected \"key: value\"");
    for (*key = 0; *key < FSB_REGISTRY_M_KEYS_; ++*key) {
        const char *name = fsb_registry_matter_keys_[*key];
        if (strlen(name) == (size_t)(colon - s) && !memcmp(name, s, strlen(name))) break;
    }
    if (*key == FSB_REGISTRY_M_KEYS_)
        return fsb_registry_wrong_(m, "unknown key; others belong under \"fields:\"");
    if (text[*key]) return fsb_registry_wrong_(m, "this key is there twice");
    text[*key] = m->out;
    if (*key == FSB_REGISTRY_M_TAGS_) return fsb_registry_tags_(m, colon + 1, end);
    if (*key == FSB_REGISTRY_M_FIELDS_)
        return fsb_registry_spaces_(colon + 1, end) == end
                   ? 0 : fsb_registry_wrong_(m, "fields stand on lines of their own");
    s = fsb_registry_scalar_(m, colon + 1, end, "");
    if (!s) return -EBADMSG;
    if (s != end) return fsb_registry_wrong_(m, "text after the string");
    int64_t ns;
    if ((*key == FSB_REGISTRY_M_CREATED_ || *key == FSB_REGISTRY_M_UPDATED_)
        && !fsb_registry_time_get_(text[*key], &ns))
        return fsb_registry_wrong_(m, "a time must be like 2026-11-21T02:11:34Z");
    return 0;
}

static int fsb_registry_matter_all_(fsb_registry_matter_ *m,
                                    const char *text[FSB_REGISTRY_M_KEYS_])
{
    int key = -1;
    for (;;) {
        const char *s = m->at;
        const char *end = (const char *)memchr(s, '\n', (size_t)(m->end - s));
        ++m->line;
        if (!end) return fsb_registry_wrong_(m, "the front matter does not end with ---");
        m->at = end + 1;
        if (end > s && end[-1] == '\r') --end;
        if (end == s && m->line > 1) continue;
        const int rule = end - s == 3 && !memcmp(s, "---", 3);
        int       err = 0;
        if (m->line == 1 && !rule)
            return fsb_registry_wrong_(m, "the front matter must begin with ---");
        if (memchr(s, 0, (size_t)(end - s))) return fsb_registry_wrong_(m, "a zero byte");
        if (rule || end - s < 3 || memcmp(s, "  ", 2)) {
            if (key == FSB_REGISTRY_M_FIELDS_) *m->out++ = 0; /* the list ends */
            key = -1;
            if (m->line == 1) continue;
            if (rule) return 0;
            err = fsb_registry_matter_line_(m, s, end, text, &key);
        } else if (key == FSB_REGISTRY_M_FIELDS_) {
            err = fsb_registry_matter_field_(m, s, end, text[key]);
        } else {
            err = fsb_registry_wrong_(m, "unexpected spaces before the key");
        }
        if (err) return err;
    }
}

/* Parses data[0..size), which a '\0' follows, into doc, with texts in `out`. id and version come
   from the file's name, NULL where it holds a hash. */
static int fsb_registry_parse_(const char *data, size_t size, char *out, const char *id,
                               const char *version, fsb_registry_doc *doc, char *why)
{
    const char          *text[FSB_REGISTRY_M_KEYS_] = {0};
    fsb_registry_matter_ m;
    m.at = data, m.end = data + size, m.line = m.fields = 0, m.out = out, m.why = why;
    int err = fsb_registry_matter_all_(&m, text);
    if (err) return err;
    const char *named[2] = {id, version};
    for (int i = 0; i < 2; ++i) {
        if (named[i] && text[i] && strcmp(named[i], text[i]))
            return fsb_registry_wrong_(&m, "id or version is not what the file's name says");
        if (!text[i]) text[i] = named[i];
        if (!text[i])
            return fsb_registry_wrong_(&m, "the file's name is a hash, so id and version must be "
                                       "in its front matter");
    }
    memset(doc, 0, sizeof *doc);
    doc->id      = fsb_registry_append_(&m.out, text[0], strlen(text[0]) + 1);
    doc->version = fsb_registry_append_(&m.out, text[1], strlen(text[1]) + 1);
    doc->description  = text[2] ? text[2] : "";
    doc->content_type = text[3] ? text[3] : "";
    doc->tags         = text[4] ? text[4] : "";
    doc->fields       = text[7] ? text[7] : "";
    if (text[5]) fsb_registry_time_get_(text[5], &doc->created_ns);
    if (text[6]) fsb_registry_time_get_(text[6], &doc->updated_ns);
    doc->content = m.at, doc->size = (uint64_t)(m.end - m.at);
    const char *wrong;
    if (fsb_registry_doc_check_(doc, &wrong) < 0) return fsb_registry_wrong_(&m, wrong);
    fsb_registry_hash_(doc->content, (size_t)doc->size, doc->hash);
    return 0;
}

/* Plain where any YAML reader takes it for the same text, else a JSON string. */
static void fsb_registry_scalar_put_(fsb_registry_bytes_ *b, const char *s)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off"};
    const uint8_t            first = (uint8_t)*s;
    int plain = (first >= 'a' && first <= 'z') || (first >= 'A' && first <= 'Z') || first == '/'
                || first >= 0x80;
    for (const char *c = s; *c && plain; ++c)
        plain = fsb_registry_word_(*c) || strchr("_./+@=()", *c) || (uint8_t)*c >= 0x80
                || (*c == ' ' && c[1] && c[1] != ' ');
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i) plain &= strcmp(words[i], s) != 0;
    if (plain) {
        fsb_registry_puts_(b, s);
        return;
    }
    fsb_registry_puts_(b, "\"");
    for (; *s; ++s) {
        char escape[8];
        if (*s == '"' || *s == '\\') snprintf(escape, sizeof escape, "\\%c", *s);
        else if (*s == '\n') snprintf(escape, sizeof escape, "\\n");
        else if ((uint8_t)*s < 0x20) snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*s);
        else escape[0] = *s, escape[1] = 0;
        fsb_registry_puts_(b, escape);
    }
    fsb_registry_puts_(b, "\"");
}

static void fsb_registry_line_put_(fsb_registry_bytes_ *b, const char *key, const char *value)
{
    if (!value || !*value) return;
    fsb_registry_puts_(b, key);
    fsb_registry_puts_(b, ": ");
    fsb_registry_scalar_put_(b, value);
    fsb_registry_puts_(b, "\n");
}

/* The file of a document. */
static void fsb_registry_file_put_(fsb_registry_bytes_ *b, const char *path,
                                   const fsb_registry_doc *doc, int64_t created, int64_t updated)
{
    char time[64];
    fsb_registry_puts_(b, "---\n");
    if (strstr(path, "%~")) {
        fsb_registry_line_put_(b, "id", doc->id);
        fsb_registry_line_put_(b, "version", doc->version);
    }
    fsb_registry_line_put_(b, "description", doc->description);
    fsb_registry_line_put_(b, "type", doc->content_type);
    const char *tag = fsb_registry_list_first(doc->tags);
    if (tag) fsb_registry_puts_(b, "tags: [");
    for (; tag; tag = fsb_registry_list_next(tag)) {
        fsb_registry_scalar_put_(b, tag);
        fsb_registry_puts_(b, fsb_registry_list_next(tag) ? ", " : "]\n");
    }
    fsb_registry_time_put_(time, created);
    fsb_registry_puts_(b, "created: "), fsb_registry_puts_(b, time), fsb_registry_puts_(b, "\n");
    fsb_registry_time_put_(time, updated);
    fsb_registry_puts_(b, "updated: "), fsb_registry_puts_(b, time), fsb_registry_puts_(b, "\n");
    const char *field = fsb_registry_list_first(doc->fields);
    if (field) fsb_registry_puts_(b, "fields:\n");
    for (; field; field = fsb_registry_list_next(field)) {
        const size_t size = strcspn(field, "=");
        fsb_registry_puts_(b, "  ");
        size_t plain = 0;
        while (fsb_registry_word_(field[plain]) || field[plain] == '.' || field[plain] == '_')
            ++plain;
        if (plain == size) {
            fsb_registry_put_(b, field, size);
        } else { /* a JSON string holds any key */
            fsb_registry_bytes_ key = {b->alloc, NULL, 0, 0, 0};
            fsb_registry_put_(&key, " ", 1); /* a leading space is never plain */
            fsb_registry_put_(&key, field, size);
            fsb_registry_put_(&key, "", 1);
            if (key.failed) b->failed = 1;
            else {
                const size_t at = b->size;
                fsb_registry_scalar_put_(b, (const char *)key.data);
                if (!b->failed) { /* without that space again */
                    memmove(b->data + at + 1, b->data + at + 2, b->size - at - 2);
                    --b->size;
                }
            }
            fsb_registry_bytes_free_(&key);
        }
        fsb_registry_puts_(b, ": ");
        fsb_registry_scalar_put_(b, field + size + 1);
        fsb_registry_puts_(b, "\n");
    }
    fsb_registry_puts_(b, "---\n");
    fsb_registry_put_(b, doc->content, (size_t)doc->size);
}

/* ---- [folder] files -------------------------------------------------------------------------- */

static int64_t fsb_registry_mtime_(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* Reads and parses one file into the view. */
static int fsb_registry_file_load_(fsb_registry *reg, const char *path, const char *id,
                                   const char *version, fsb_registry_view *view, char *why)
{
    struct stat st;
    const int   fd = openat(reg->dir, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    int         err = fd < 0 ? -errno : fstat(fd, &st) < 0 ? -errno : 0;
    snprintf(why, FSB_REGISTRY_WHY_, "%s", strerror(-err));
    if (!err && !S_ISREG(st.st_mode)) err = -EBADMSG;
    if (!err && st.st_size > FSB_REGISTRY_CONTENT_MAX + 2 * FSB_REGISTRY_TEXT_MAX) err = -EMSGSIZE;
    fsb_registry_view_init_(view, reg);
    size_t size = err ? 0 : (size_t)st.st_size, got = 0;
    if (!err) { /* the file, a '\0', and room for its texts and the two names */
        view->block_size_ = 2 * size + FSB_REGISTRY_ID_MAX + FSB_REGISTRY_VERSION_MAX + 32;
        view->block_ = fsb_registry_mem_(&reg->desc.allocator, NULL, 0, view->block_size_);
        if (!view->block_) err = -ENOMEM;
    }
    char *data = (char *)view->block_;
    while (!err && got < size) {
        const ssize_t n = read(fd, data + got, size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) err = -errno;
        if (n <= 0) break;
        got += (size_t)n;
    }
    if (fd >= 0) close(fd);
    if (!err) {
        data[got] = 0;
        err = fsb_registry_parse_(data, got, data + got + 1, id, version, &view->doc, why);
    }
    if (!err) {
        view->doc.change = (uint64_t)fsb_registry_mtime_(&st);
        if (!view->doc.created_ns) view->doc.created_ns = (int64_t)view->doc.change;
        if (!view->doc.updated_ns) view->doc.updated_ns = (int64_t)view->doc.change;
        return 0;
    }
    fsb_registry_release(view);
    return err;
}

/* One file of the folder: its row's key as in LMDB, and its path. */
typedef struct fsb_registry_file_ {
    char   *key;  /* ID 0 VERSION, then the path with its '\0': one block */
    size_t  key_size, id_size, path_size;
    int     named; /* id and version can be read off the path */
    int64_t mtime_ns;
    uint64_t bytes;
} fsb_registry_file_;

typedef struct fsb_registry_files_ {
    fsb_registry       *reg;
    fsb_registry_file_ *at;
    size_t              count, room;
    const char         *id;     /* only this one's, or NULL */
    fsb_registry_scan_ *scan;   /* told of files whose name cannot be read, or NULL */
} fsb_registry_files_;

static const char *fsb_registry_file_name_(const fsb_registry_file_ *f)
{
    return f->key + f->key_size;
}

static void fsb_registry_files_free_(fsb_registry_files_ *files)
{
    const fsb_allocator *a = &files->reg->desc.allocator;
    for (size_t i = 0; i < files->count; ++i)
        fsb_registry_free_(a, files->at[i].key, files->at[i].key_size + files->at[i].path_size);
    fsb_registry_free_(a, files->at, files->room * sizeof *files->at);
}

static int fsb_registry_file_order_(const void *a, const void *b)
{
    const fsb_registry_file_ *x = (const fsb_registry_file_ *)a;
    const fsb_registry_file_ *y = (const fsb_registry_file_ *)b;
    return fsb_registry_bytes_compare_((const uint8_t *)x->key, x->key_size,
                                       (const uint8_t *)y->key, y->key_size);
}

/* Reads id and version off a path, whose last part is NAME.md; 1: a hash is in it. */
static int fsb_registry_path_read_(const char *path, char *id, char *version)
{
    const char *name = strrchr(path, '/');
    int         hashed = 0;
    char       *out = id;
    if (!name) return -EINVAL;
    for (const char *part = path; part < name;) {
        const char *end = strchr(part, '/');
        hashed |= fsb_registry_name_get_(out, part, (size_t)(end - part));
        if (hashed) break;
        out += strlen(out);
        if (end < name) *out++ = '/', *out = 0;
        part = end + 1;
    }
    return hashed | fsb_registry_name_get_(version, name + 1, strlen(name) - 4);
}

static int fsb_registry_files_add_(fsb_registry_files_ *files, const char *path,
                                   const struct stat *st)
{
    char id[FSB_REGISTRY_PATH_ + 1], version[FSB_REGISTRY_PATH_ + 1], why[FSB_REGISTRY_WHY_];
    char again[2 * FSB_REGISTRY_PATH_], key[FSB_REGISTRY_KEY_ROOM_];
    const fsb_allocator *a = &files->reg->desc.allocator;
    fsb_registry_view    view;
    fsb_registry_ver_    ver;
    fsb_registry_file_   f;
    int                  err = 0;
    const int            hashed = fsb_registry_path_read_(path, id, version);
    if (hashed) {
        err = fsb_registry_file_load_(files->reg, path, NULL, NULL, &view, why);
        if (err == -ENOENT) return 0; /* deleted meanwhile */
        if (err && err != -EBADMSG && err != -EMSGSIZE && !files->scan) return err;
        if (!err) {
            snprintf(id, sizeof id, "%s", view.doc.id);
            snprintf(version, sizeof version, "%s", view.doc.version);
            fsb_registry_release(&view);
        }
    }
    if (!err) snprintf(why, sizeof why, "no id and version would give the file this name");
    if (!err && (strlen(id) > FSB_REGISTRY_ID_MAX || fsb_registry_ver_read_(&ver, version) < 0))
        err = -EBADMSG;
    if (!err) {
        fsb_registry_file_path_(again, id, version);
        if (strcmp(again, path)) err = -EBADMSG;
    }
    if (err) return files->scan ? fsb_registry_scan_bad_(files->scan, path, err, why) : 0;
    if (files->id && strcmp(id, files->id)) return 0;
    f.id_size  = fsb_registry_id_key_(key, id);
    f.key_size = fsb_registry_doc_key_(key, id, &ver) - 1;
    f.path_size = strlen(path) + 1, f.named = !hashed;
    f.mtime_ns = fsb_registry_mtime_(st);
    f.bytes = (uint64_t)st->st_size;
    if (files->count == files->room) {
        const size_t        room = files->room ? files->room * 2 : 16;
        fsb_registry_file_ *more = (fsb_registry_file_ *)fsb_registry_mem_(
            a, files->at, files->room * sizeof f, room * sizeof f);
        if (!more) return -ENOMEM;
        files->at = more, files->room = room;
    }
    f.key = (char *)fsb_registry_mem_(a, NULL, 0, f.key_size + f.path_size);
    if (!f.key) return -ENOMEM;
    memcpy(f.key, key + 1, f.key_size);
    memcpy(f.key + f.key_size, path, f.path_size);
    files->at[files->count++] = f;
    return 0;
}

/* Adds the documents in one folder ("" or with a '/' at its end); its folders go to `below`. */
static int fsb_registry_files_in_(fsb_registry_files_ *files, const char *folder,
                                  fsb_registry_bytes_ *below)
{
    char path[FSB_REGISTRY_PATH_ + 300];
    int  err = 0;
    const int fd = openat(files->reg->dir, *folder ? folder : ".",
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        err = -errno;
        if (fd >= 0) close(fd);
        return err == -ENOENT || err == -ENOTDIR || err == -ELOOP ? 0 : err;
    }
    while (!err) {
        struct stat st;
        errno = 0; /* which is all that tells an error from the end */
        const struct dirent *d = readdir(dir);
        if (!d) err = -errno;
        if (!d) break;
        const size_t n = strlen(d->d_name), m = strlen(folder);
        if (d->d_name[0] == '.' || n + m + 2 > FSB_REGISTRY_PATH_) continue;
        memcpy(path, folder, m);
        memcpy(path + m, d->d_name, n + 1);
        if (fstatat(files->reg->dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno != ENOENT) err = -errno; /* deleted meanwhile is nothing */
            continue;
        }
        if (S_ISDIR(st.st_mode) && below) {
            path[m + n] = '/', path[m + n + 1] = 0;
            fsb_registry_put_(below, path, m + n + 2);
            if (below->failed) err = -ENOMEM;
        } else if (S_ISREG(st.st_mode) && m && n > 3 && !strcmp(d->d_name + n - 3, ".md")) {
            err = fsb_registry_files_add_(files, path, &st);
        }
    }
    closedir(dir);
    return err;
}

/* All documents, or those of one id, in the order of their keys; free them in any case. */
static int fsb_registry_files_all_(fsb_registry_files_ *files)
{
    char path[FSB_REGISTRY_PATH_ + 300];
    int  err;
    if (files->id) {
        fsb_registry_id_path_(path, files->id);
        err = fsb_registry_files_in_(files, path, NULL);
    } else {
        fsb_registry_bytes_ below = {&files->reg->desc.allocator, NULL, 0, 0, 0};
        err = fsb_registry_files_in_(files, "", &below);
        while (!err && below.size) { /* a stack of folders to visit: no recursion */
            size_t at = below.size - 1;
            while (at && below.data[at - 1]) --at;
            memcpy(path, below.data + at, below.size - at);
            below.size = at;
            err = fsb_registry_files_in_(files, path, &below);
        }
        fsb_registry_bytes_free_(&below);
    }
    if (!err && files->count)
        qsort(files->at, files->count, sizeof *files->at, fsb_registry_file_order_);
    return err;
}

static void fsb_registry_files_init_(fsb_registry_files_ *files, fsb_registry *reg, const char *id)
{
    memset(files, 0, sizeof *files);
    files->reg = reg, files->id = id;
}

static int fsb_registry_file_open_(fsb_registry *reg, const fsb_registry_file_ *f,
                                   fsb_registry_view *view, char *why)
{
    char        id[FSB_REGISTRY_PATH_ + 1], version[FSB_REGISTRY_PATH_ + 1];
    const char *path = fsb_registry_file_name_(f);
    if (f->named) fsb_registry_path_read_(path, id, version);
    return fsb_registry_file_load_(reg, path, f->named ? id : NULL, f->named ? version : NULL, view,
                                   why);
}

/* ---- [folder] store -------------------------------------------------------------------------- */

/* The picked one of the files of one id, NULL if there is none. */
static const fsb_registry_file_ *fsb_registry_files_pick_(const fsb_registry_files_ *files,
                                                          const fsb_registry_pick_ *pick)
{
    const fsb_registry_file_ *first = NULL;
    for (size_t i = 0; i < files->count; ++i) {
        const fsb_registry_file_ *f = &files->at[i];
        const uint8_t            *ver = (const uint8_t *)f->key + f->id_size + 1;
        fsb_registry_ver_         v;
        if (!fsb_registry_ver_from_key_(&v, ver, f->key_size - f->id_size - 1)) continue;
        if (pick->range && fsb_registry_range_has_(pick->range, &v)) return f;
        if (pick->range) continue;
        if (v.kind == FSB_REGISTRY_V_RELEASE_) return f;
        if (!first) first = f;
    }
    return first;
}

static int fsb_registry_folder_load_(fsb_registry *reg, const fsb_registry_pick_ *pick,
                                     fsb_registry_view *view)
{
    char        path[2 * FSB_REGISTRY_PATH_], why[FSB_REGISTRY_WHY_];
    const char *id = pick->id;
    int         err;
    if (pick->version) {
        fsb_registry_file_path_(path, id, pick->version);
        err = fsb_registry_file_load_(reg, path, id, pick->version, view, why);
        if (err == -ENOTDIR || err == -ENAMETOOLONG) err = -ENOENT;
    } else {
        fsb_registry_files_ files;
        fsb_registry_files_init_(&files, reg, id);
        err = fsb_registry_files_all_(&files);
        snprintf(why, sizeof why, "%s", strerror(-err));
        const fsb_registry_file_ *f = err ? NULL : fsb_registry_files_pick_(&files, pick);
        if (!f && !err) err = -ENOENT;
        snprintf(path, sizeof path, "%s", f ? fsb_registry_file_name_(f) : id);
        if (f) err = fsb_registry_file_open_(reg, f, view, why);
        fsb_registry_files_free_(&files);
    }
    if (!err || err == -ENOENT) return err;
    return fsb_registry_fail_(reg, err, "%s/%.300s: %s", reg->path, path, why);
}

static int fsb_registry_folder_row_(fsb_registry_scan_ *scan, const fsb_registry_file_ *f)
{
    char              why[FSB_REGISTRY_WHY_];
    fsb_registry_view view;
    size_t            id_size = 0;
    const int kind = fsb_registry_row_kind_((const uint8_t *)f->key, f->key_size, &id_size);
    int err = fsb_registry_scan_key_(scan, (const uint8_t *)f->key, id_size);
    if (err) return err == 1 ? 0 : err;
    const char *prefix = scan->query->prefix;
    const size_t n = prefix ? strlen(prefix) : 0;
    if (n && (memcmp(f->key, prefix, n < id_size ? n : id_size) || (n > id_size && f->named)))
        if (id_size < FSB_REGISTRY_ID_KEY_ || n <= FSB_REGISTRY_ID_HEAD_) return 0;
    err = fsb_registry_file_open_(scan->reg, f, &view, why);
    if (err == -ENOENT) return 0; /* deleted since it was listed */
    if (err) return fsb_registry_scan_bad_(scan, fsb_registry_file_name_(f), err, why);
    if (fsb_registry_scan_wants_(scan, &view.doc)) return fsb_registry_scan_row_(scan, kind, &view);
    fsb_registry_release(&view);
    return 0;
}

static int fsb_registry_folder_each_(fsb_registry *reg, fsb_registry_scan_ *scan)
{
    fsb_registry_files_ files;
    fsb_registry_files_init_(&files, reg, scan->query->id);
    files.scan = scan;
    int err = fsb_registry_files_all_(&files);
    for (size_t i = 0; i < files.count && !err; ++i)
        err = fsb_registry_folder_row_(scan, &files.at[i]);
    if (!err) err = fsb_registry_scan_flush_(scan);
    fsb_registry_files_free_(&files);
    return err;
}

/* Makes the folders of a path, and syncs each that is new into the one above. */
static int fsb_registry_folders_make_(fsb_registry *reg, char *path, int durable)
{
    for (char *s = strchr(path, '/'); s; s = strchr(s + 1, '/')) {
        *s = 0;
        const int made = mkdirat(reg->dir, path, 0777);
        int       err = made < 0 && errno != EEXIST ? -errno : 0;
        if (!made && durable) {
            char *up = strrchr(path, '/');
            if (up) *up = 0;
            const int fd = openat(reg->dir, up ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (fd < 0 || fsync(fd) < 0) err = -errno;
            if (fd >= 0) close(fd);
            if (up) *up = '/';
        }
        *s = '/';
        if (err) return err;
    }
    return 0;
}

static int fsb_registry_write_all_(int fd, const uint8_t *data, size_t size)
{
    while (size) {
        const ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        data += n, size -= (size_t)n;
    }
    return 0;
}

/* Where a file is written before it gets its name: in its folder; `serial` is of a batch. */
static void fsb_registry_aside_(char aside[2 * FSB_REGISTRY_PATH_], const char *path, size_t serial)
{
    const int folder = (int)(strrchr(path, '/') - path);
    snprintf(aside, 2 * FSB_REGISTRY_PATH_, "%.*s/.new-%ld-%zu", folder, path, (long)getpid(),
             serial);
}

/* A file's time is its change number, which must not stay the same, whatever the clock is: the time
   of what it replaces, `after`, comes before it. */
static int fsb_registry_file_date_(int fd, uint64_t after)
{
    struct stat     st;
    struct timespec times[2];
    if (fstat(fd, &st) < 0) return -errno;
    if (fsb_registry_mtime_(&st) > (int64_t)after) return 0;
    times[0].tv_sec = 0, times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_sec = (time_t)(++after / 1000000000), times[1].tv_nsec = (long)(after % 1000000000);
    return futimens(fd, times) < 0 ? -errno : 0;
}

/* Writes a file aside. */
static int fsb_registry_file_write_(fsb_registry *reg, char *path, size_t serial,
                                    const fsb_registry_bytes_ *b, uint64_t after, int durable)
{
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    char      aside[2 * FSB_REGISTRY_PATH_];
    int       err = 0;
    fsb_registry_aside_(aside, path, serial);
    int fd = openat(reg->dir, aside, flags, 0666);
    if (fd < 0 && errno == ENOENT) err = fsb_registry_folders_make_(reg, path, durable);
    else if (fd < 0 && errno == EEXIST) unlinkat(reg->dir, aside, 0); /* of one that was killed */
    else if (fd < 0) err = -errno;
    if (err) return err;
    if (fd < 0) fd = openat(reg->dir, aside, flags, 0666);
    if (fd < 0) return -errno;
    err = fsb_registry_write_all_(fd, b->data, b->size);
    if (!err && after) err = fsb_registry_file_date_(fd, after);
    if (!err && durable && fsync(fd) < 0) err = -errno;
    if (close(fd) < 0 && !err) err = -errno;
    if (err) unlinkat(reg->dir, aside, 0);
    return err;
}

/* Gives it its name. */
static int fsb_registry_file_name_it_(fsb_registry *reg, char *path, size_t serial, int replace,
                                      int durable)
{
    char aside[2 * FSB_REGISTRY_PATH_];
    int  err = 0;
    fsb_registry_aside_(aside, path, serial);
    if (replace && renameat(reg->dir, aside, reg->dir, path) < 0) err = -errno;
    if (!replace && linkat(reg->dir, aside, reg->dir, path, 0) < 0) err = -errno;
    if (err || !replace) unlinkat(reg->dir, aside, 0);
    if (err || !durable) return err;
    char *name = strrchr(path, '/');
    *name = 0;
    const int dir = openat(reg->dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *name = '/';
    if (dir < 0) return -errno;
    if (fsync(dir) < 0) err = -errno;
    close(dir);
    return err;
}

/* May doc be saved? *created and *change are of what it replaces, 0 where that is nothing. */
static int fsb_registry_folder_allowed_(fsb_registry *reg, const fsb_registry_write_ *w,
                                        const fsb_registry_doc *doc, int64_t *created,
                                        uint64_t *change)
{
    const fsb_registry_pick_ latest = fsb_registry_pick_of_(doc->id, NULL);
    const fsb_registry_pick_ exact = fsb_registry_pick_of_(doc->id, doc->version);
    fsb_registry_view        top, old;
    fsb_registry_view_init_(&top, reg);
    int err = w->expected ? fsb_registry_folder_load_(reg, &latest, &top) : -ENOENT;
    if (err && err != -ENOENT) return err;
    const int known = !err;
    err = fsb_registry_folder_load_(reg, &exact, &old);
    const int damaged = err && err != -ENOENT; /* there, but it can only be replaced */
    if (damaged) memset(&old.doc, 0, sizeof old.doc);
    const int there = !err || damaged;
    *created = !err && !doc->created_ns ? old.doc.created_ns : doc->created_ns;
    *change  = there ? old.doc.change : 0;
    const int allowed = fsb_registry_allowed_(w, doc, known ? top.doc.version : NULL,
                                              there ? &old.doc : NULL);
    if (!err) fsb_registry_release(&old);
    if (known) fsb_registry_release(&top);
    return allowed;
}

/* The file of the i-th document, written aside. */
static int fsb_registry_folder_put_(fsb_registry *reg, const fsb_registry_write_ *w, size_t i,
                                    int durable)
{
    const fsb_registry_doc *doc = &w->docs[i];
    fsb_registry_bytes_     file = {&reg->desc.allocator, NULL, 0, 0, 0};
    char                    path[2 * FSB_REGISTRY_PATH_];
    const int64_t           now = fsb_registry_clock_();
    int64_t                 created = 0;
    uint64_t                change = 0;
    int                     err = fsb_registry_folder_allowed_(reg, w, doc, &created, &change);
    if (err) return err;
    fsb_registry_file_path_(path, doc->id, doc->version);
    fsb_registry_file_put_(&file, path, doc, created ? created : now,
                           doc->updated_ns ? doc->updated_ns : now);
    err = file.failed ? -ENOMEM : fsb_registry_file_write_(reg, path, i, &file, change, durable);
    fsb_registry_bytes_free_(&file);
    return err;
}

static int fsb_registry_folder_sync_(fsb_registry *reg)
{
    return syncfs(reg->dir) < 0 ? -errno : 0;
}

/* Writes the files aside, syncs them, gives them their names, syncs the folders: each is there
   whole or not. A batch is synced as one, with all else on that file system: it has two flushes to
   wait for, not four for each file. */
static int fsb_registry_folder_save_(fsb_registry *reg, fsb_registry_write_ *w)
{
    const int durable = reg->desc.durability != FSB_REGISTRY_UNSAFE;
    const int together = durable && w->count > 1, replace = w->mode != FSB_REGISTRY_NEW;
    char      path[2 * FSB_REGISTRY_PATH_], aside[2 * FSB_REGISTRY_PATH_];
    size_t    put = 0;
    int64_t   created;
    uint64_t  change;
    int       err = 0;
    for (size_t i = 0; i < w->count && w->count > 1 && !err; ++i) { /* all, before any folder */
        w->failed = i;
        err = fsb_registry_folder_allowed_(reg, w, &w->docs[i], &created, &change);
    }
    for (; put < w->count && !err; ++put) {
        w->failed = put;
        err = fsb_registry_folder_put_(reg, w, put, durable && !together);
    }
    if (!err && together) err = fsb_registry_folder_sync_(reg);
    for (size_t i = 0; i < put; ++i) {
        fsb_registry_file_path_(path, w->docs[i].id, w->docs[i].version);
        fsb_registry_aside_(aside, path, i);
        if (err) unlinkat(reg->dir, aside, 0);
        else w->failed = i, err = fsb_registry_file_name_it_(reg, path, i, replace,
                                                             durable && !together);
    }
    return !err && together ? fsb_registry_folder_sync_(reg) : err;
}

static int64_t fsb_registry_folder_delete_(fsb_registry *reg, const fsb_registry_write_ *w)
{
    char    path[2 * FSB_REGISTRY_PATH_];
    int64_t count = 0;
    int     err = 0;
    if (w->version) {
        fsb_registry_file_path_(path, w->id, w->version);
        if (unlinkat(reg->dir, path, 0) < 0) return errno == ENOTDIR ? -ENOENT : -errno;
        count = 1;
    } else {
        fsb_registry_files_ files;
        fsb_registry_files_init_(&files, reg, w->id);
        err = fsb_registry_files_all_(&files);
        for (size_t i = 0; i < files.count && !err; ++i) {
            if (unlinkat(reg->dir, fsb_registry_file_name_(&files.at[i]), 0) == 0) ++count;
            else if (errno != ENOENT) err = -errno;
        }
        fsb_registry_files_free_(&files);
        if (err) return err;
        if (!count) return -ENOENT;
        fsb_registry_id_path_(path, w->id);
    }
    if (reg->desc.durability != FSB_REGISTRY_UNSAFE) {
        *(strrchr(path, '/')) = 0;
        const int dir = openat(reg->dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0 || fsync(dir) < 0) err = -errno;
        if (dir >= 0) close(dir);
        if (err) return err;
        strcat(path, "/");
    }
    for (char *s; (s = strrchr(path, '/'));) { /* folders that are empty now go too */
        *s = 0;
        if (unlinkat(reg->dir, path, AT_REMOVEDIR) < 0) break;
    }
    return count;
}

static void fsb_registry_folder_write_(fsb_registry *reg, const char *id, fsb_registry_write_ *w)
{
    (void)id;
    pthread_mutex_lock(&reg->folder); /* threads; the lock of the folder is for processes */
    while ((w->result = flock(reg->dir, LOCK_EX) < 0 ? -errno : 0) == -EINTR) {}
    if (!w->result)
        w->result = w->count ? fsb_registry_folder_save_(reg, w)
                             : fsb_registry_folder_delete_(reg, w);
    flock(reg->dir, LOCK_UN);
    pthread_mutex_unlock(&reg->folder);
    const int64_t err = w->result; /* the others have their text, or get it from who called */
    if (err < 0 && err != -EEXIST && err != -ESTALE && err != -ENOENT && err != -EBADMSG)
        fsb_registry_fail_(reg, (int)err, "%s: cannot write: %s", reg->path, strerror((int)-err));
}

static int fsb_registry_file_newer_(const void *a, const void *b)
{
    const int64_t x = ((const fsb_registry_file_ *)a)->mtime_ns;
    const int64_t y = ((const fsb_registry_file_ *)b)->mtime_ns;
    return (x > y) - (x < y);
}

/* Files changed since. What is younger than the grain of the file system's clock waits for the
   next call, so that a file of the same moment is not missed. */
static int64_t fsb_registry_folder_changes_(fsb_registry *reg, fsb_registry_position *at,
                                            int (*fn)(void *user,
                                                      const fsb_registry_change *change),
                                            void *user)
{
    const int64_t       until = fsb_registry_clock_() - FSB_REGISTRY_SETTLE_NS_;
    int64_t             count = 0, last = (int64_t)at->at[0];
    fsb_registry_files_ files;
    fsb_registry_files_init_(&files, reg, NULL);
    int err = fsb_registry_files_all_(&files), ended = 0;
    if (!err && files.count)
        qsort(files.at, files.count, sizeof *files.at, fsb_registry_file_newer_);
    for (size_t i = 0; i < files.count && !err && !ended; ++i) {
        const fsb_registry_file_ *f = &files.at[i];
        char                      why[FSB_REGISTRY_WHY_];
        fsb_registry_view         view;
        if (f->mtime_ns <= (int64_t)at->at[0] || f->mtime_ns > until) continue;
        err = fsb_registry_file_open_(reg, f, &view, why);
        const int gone = err == -ENOENT || err == -EBADMSG || err == -EMSGSIZE; /* or malformed */
        if (err && !gone)
            fsb_registry_fail_(reg, err, "%s/%.300s: %s", reg->path, fsb_registry_file_name_(f),
                               why);
        if (gone) err = 0;
        if (err || gone) continue;
        const fsb_registry_change change = {view.doc.id, view.doc.version, view.doc.change, 0};
        last = f->mtime_ns, ++count;
        err = fn(user, &change);
        if (err > 0) ended = 1, err = 0;
        fsb_registry_release(&view);
    }
    fsb_registry_files_free_(&files);
    if (err) return err;
    at->at[0] = (uint64_t)(ended || last > until ? last : until);
    return count;
}

static int fsb_registry_folder_now_(fsb_registry *reg, fsb_registry_position *at)
{
    (void)reg;
    memset(at, 0, sizeof *at);
    at->at[0] = (uint64_t)fsb_registry_clock_();
    return 0;
}

typedef struct fsb_registry_tally_ {
    fsb_registry_stats *out;
    fsb_registry_bad_   bad;
    void               *user;
    int64_t             problems;
    char                last[FSB_REGISTRY_ID_MAX + 1];
} fsb_registry_tally_;

static int fsb_registry_tally_doc_(void *user, const fsb_registry_doc *doc)
{
    fsb_registry_tally_ *t = (fsb_registry_tally_ *)user;
    t->out->ids += strcmp(t->last, doc->id) != 0;
    snprintf(t->last, sizeof t->last, "%s", doc->id);
    ++t->out->versions;
    t->out->content_bytes += doc->size;
    if (doc->change > t->out->last_change) t->out->last_change = doc->change;
    return 0;
}

static void fsb_registry_tally_bad_(void *user, const char *what, int err, const char *text)
{
    fsb_registry_tally_ *t = (fsb_registry_tally_ *)user;
    ++t->problems;
    if (t->bad) t->bad(t->user, what, err, text);
}

static int64_t fsb_registry_tally_all_(fsb_registry *reg, fsb_registry_tally_ *t)
{
    fsb_registry_query query;
    memset(&query, 0, sizeof query);
    query.bad = fsb_registry_tally_bad_;
    const int64_t n = fsb_registry_each(reg, &query, fsb_registry_tally_doc_, t);
    return n < 0 ? n : t->problems;
}

static int fsb_registry_folder_stat_(fsb_registry *reg, fsb_registry_stats *out)
{
    fsb_registry_tally_ t;
    fsb_registry_files_ files;
    memset(&t, 0, sizeof t);
    t.out = out;
    const int64_t n = fsb_registry_tally_all_(reg, &t);
    if (n < 0) return (int)n;
    fsb_registry_files_init_(&files, reg, NULL);
    const int err = fsb_registry_files_all_(&files);
    for (size_t i = 0; i < files.count; ++i) out->file_bytes += files.at[i].bytes;
    fsb_registry_files_free_(&files);
    return err;
}

/* A folder has no index and no stored hash: verify is reading every file. */
static int64_t fsb_registry_folder_verify_(fsb_registry *reg, fsb_registry_bad_ bad, void *user)
{
    fsb_registry_stats  stats;
    fsb_registry_tally_ t;
    memset(&t, 0, sizeof t);
    memset(&stats, 0, sizeof stats);
    t.out = &stats, t.bad = bad, t.user = user;
    return fsb_registry_tally_all_(reg, &t);
}

/* A damaged file fails the backup: it would be missing in it. */
static void fsb_registry_backup_bad_(void *user, const char *what, int err, const char *text)
{
    fsb_registry_fail_((fsb_registry *)user, err, "%.200s: %.300s; mend or remove it, then back up",
                       what, text);
}

static int fsb_registry_folder_backup_(fsb_registry *reg, const char *aside, int compact)
{
    fsb_registry_desc   desc = reg->desc;
    fsb_registry_report report;
    fsb_registry       *copy;
    (void)compact;
    desc.path = aside, desc.kind = FSB_REGISTRY_FOLDER, desc.read_only = desc.must_exist = 0;
    int err = fsb_registry_open(&copy, &desc);
    if (err) return err;
    err = fsb_registry_copy(reg, copy, FSB_REGISTRY_NEW, &report, fsb_registry_backup_bad_, reg);
    fsb_registry_close(copy);
    return err;
}

static void fsb_registry_folder_close_(fsb_registry *reg) { (void)reg; }

static const fsb_registry_ops_ fsb_registry_folder_ops_ = {
    fsb_registry_folder_close_, fsb_registry_folder_load_, fsb_registry_folder_each_,
    fsb_registry_folder_write_, fsb_registry_folder_sync_, fsb_registry_folder_changes_,
    fsb_registry_folder_now_, fsb_registry_folder_stat_, fsb_registry_folder_verify_,
    fsb_registry_folder_backup_,
};

/* ---- [json] ---------------------------------------------------------------------------------- */

static const char *fsb_registry_blank_(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r')) ++s;
    return s;
}

static const char *fsb_registry_digits_(const char *s, const char *end)
{
    const char *from = s;
    while (s < end && fsb_registry_digit_(*s)) ++s;
    return s == from ? NULL : s;
}

static const char *fsb_registry_number_(const char *s, const char *end)
{
    if (s < end && *s == '-') ++s;
    if (s + 1 < end && *s == '0' && fsb_registry_digit_(s[1])) return NULL;
    s = fsb_registry_digits_(s, end);
    if (s && s < end && *s == '.') s = fsb_registry_digits_(s + 1, end);
    if (s && s < end && (*s == 'e' || *s == 'E')) {
        ++s;
        if (s < end && (*s == '+' || *s == '-')) ++s;
        s = fsb_registry_digits_(s, end);
    }
    return s;
}

/* What follows a string, number or word; NULL if there is none of these. */
static const char *fsb_registry_json_atom_(const char *s, const char *end)
{
    static const char *const words[] = {"true", "false", "null"};
    if (s < end && *s == '"') return fsb_registry_string_(s, end, NULL);
    for (int i = 0; i < 3; ++i) {
        const size_t n = strlen(words[i]);
        if ((size_t)(end - s) >= n && !memcmp(s, words[i], n)) return s + n;
    }
    return fsb_registry_number_(s, end);
}

/* A member's key and colon. */
static const char *fsb_registry_json_key_(const char *s, const char *end)
{
    s = s < end && *s == '"' ? fsb_registry_string_(s, end, NULL) : NULL;
    if (!s) return NULL;
    s = fsb_registry_blank_(s, end);
    return s < end && *s == ':' ? fsb_registry_blank_(s + 1, end) : NULL;
}

/* What follows the JSON value at s, NULL if it is malformed or too deep. No recursion. */
static const char *fsb_registry_json_(const char *s, const char *end)
{
    char close_[FSB_REGISTRY_DEPTH_];
    int  depth = 0;
    for (;;) {
        s = fsb_registry_blank_(s, end);
        if (s < end && (*s == '[' || *s == '{')) { /* down */
            if (depth == FSB_REGISTRY_DEPTH_) return NULL;
            close_[depth++] = *s == '[' ? ']' : '}';
            s = fsb_registry_blank_(s + 1, end);
            if (s == end || *s != close_[depth - 1]) {
                if (close_[depth - 1] == '}' && !(s = fsb_registry_json_key_(s, end))) return NULL;
                continue;
            }
            ++s, --depth;
        } else {
            s = fsb_registry_json_atom_(s, end);
            if (!s) return NULL;
        }
        for (;;) { /* a value ended: up, or to the next member */
            if (!depth) return s;
            s = fsb_registry_blank_(s, end);
            if (s == end || (*s != ',' && *s != close_[depth - 1])) return NULL;
            if (*s++ == ',') break;
            --depth;
        }
        s = fsb_registry_blank_(s, end);
        if (close_[depth - 1] == '}' && !(s = fsb_registry_json_key_(s, end))) return NULL;
    }
}

/* Moves [*s, *end) from a valid object or list to its member name[0..size); 0: has none. */
static int fsb_registry_json_member_(const char **s, const char **end, const char *name,
                                     size_t size)
{
    const char *p = fsb_registry_blank_(*s, *end);
    const int   object = *p == '{';
    size_t      want = 0, index = 0;
    for (size_t i = 0; i < size && !object; ++i) {
        if (!fsb_registry_digit_(name[i]) || i > 8) return 0;
        want = want * 10 + (size_t)(name[i] - '0');
    }
    if (!object && (*p != '[' || !size)) return 0;
    for (p = fsb_registry_blank_(p + 1, *end); *p != ']' && *p != '}'; ++index) {
        const char *key = p;
        if (object) p = fsb_registry_json_key_(p, *end);
        const char *next = fsb_registry_json_(p, *end);
        if (object ? !strncmp(key + 1, name, size) && key[size + 1] == '"' : index == want) {
            *s = p, *end = next;
            return 1;
        }
        p = fsb_registry_blank_(next, *end);
        if (*p == ',') p = fsb_registry_blank_(p + 1, *end);
    }
    return 0;
}

/* ---- [template] ------------------------------------------------------------------------------ */

typedef struct fsb_registry_render_ {
    fsb_registry           *reg;
    const fsb_registry_doc *doc;
    const char             *inputs;
    char                   *buf;
    size_t                  size;
    uint64_t                length;
} fsb_registry_render_;

/* An input's value: JSON text, or the plain text of a string that was given. */
typedef struct fsb_registry_value_ref_ {
    const char *text, *end;
    int         plain;
} fsb_registry_value_ref_;

static void fsb_registry_out_(fsb_registry_render_ *r, const char *text, size_t size)
{
    if (r->size && r->length < r->size - 1) {
        const size_t room = r->size - 1 - (size_t)r->length;
        memcpy(r->buf + r->length, text, size < room ? size : room);
    }
    r->length += size;
}

static int fsb_registry_name_char_(char c) { return fsb_registry_word_(c) || c == '_'; }

/* The declaration of an input, "TYPE" or "TYPE = JSON"; NULL if it is not declared. */
static const char *fsb_registry_declared_(const fsb_registry_doc *doc, const char *name,
                                          size_t size)
{
    const char *s = fsb_registry_list_first(doc->fields);
    for (; s; s = fsb_registry_list_next(s))
        if (!strncmp(s, "input.", 6) && !strncmp(s + 6, name, size) && s[6 + size] == '=')
            return s + 7 + size;
    return NULL;
}

/* Is the text a value of the declared type? `plain`: a string's text needs no quotes. */
static int fsb_registry_is_type_(const char *type, size_t size, const char *s, const char *end,
                                 int plain)
{
    static const struct { const char *name, *first; } types[] = {
        {"string", "\""}, {"number", "-0123456789"}, {"boolean", "tf"}, {"list", "["},
        {"object", "{"}
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; ++i) {
        if (strlen(types[i].name) != size || strncmp(types[i].name, type, size)) continue;
        if (!i && plain) return 1;
        s = fsb_registry_blank_(s, end);
        if (s == end || !strchr(types[i].first, *s)) return 0;
        s = fsb_registry_json_(s, end);
        return s && fsb_registry_blank_(s, end) == end;
    }
    return -1;
}

/* Finds an input's value and checks its type. */
static int fsb_registry_input_(fsb_registry_render_ *r, const char *name, size_t size,
                               fsb_registry_value_ref_ *value)
{
    const int   shown = (int)(size < 100 ? size : 100);
    const char *type = fsb_registry_declared_(r->doc, name, size);
    if (!type)
        return fsb_registry_fail_(r->reg, -ENOKEY, "%.200s %.127s: \"%.*s\" is not declared; add "
                                  "the field input.%.*s=string (or number, boolean, list, object)",
                                  r->doc->id, r->doc->version, shown, name, shown, name);
    const size_t type_size = strcspn(type, " =");
    const char  *given = fsb_registry_value_(r->inputs, name, size);
    const char  *preset = type + type_size + strspn(type + type_size, " ");
    if (*preset == '=') preset += 1 + strspn(preset + 1, " ");
    else if (!*preset) preset = NULL;
    else type = "?"; /* "string required" is no type */
    value->plain = given && type_size == 6 && !strncmp(type, "string", 6);
    value->text  = given ? given : preset;
    if (!value->text)
        return fsb_registry_fail_(r->reg, -ENODATA, "%.200s %.127s: the input \"%.*s\" (%.20s) is "
                                  "required; give it", r->doc->id, r->doc->version, shown, name,
                                  type);
    value->end   = value->text + strlen(value->text);
    const int is = fsb_registry_is_type_(type, type_size, value->text, value->end, value->plain);
    if (is == 1) return 0;
    if (is < 0 || !given)
        return fsb_registry_fail_(r->reg, -EBADMSG, "%.200s %.127s: the field input.%.*s must be "
                                  "string, number, boolean, list or object, and \" = JSON\" of "
                                  "that type for a default", r->doc->id, r->doc->version, shown,
                                  name);
    return fsb_registry_fail_(r->reg, -EINVAL, "%.200s %.127s: the input \"%.*s\" must be a %.20s",
                              r->doc->id, r->doc->version, shown, name, type);
}

/* Every input that is given must be declared, every one that is declared must have a value. */
static int fsb_registry_inputs_check_(fsb_registry_render_ *r)
{
    fsb_registry_value_ref_ value;
    int                     err = 0;
    const char *s = fsb_registry_list_first(r->inputs);
    for (; s && !err; s = fsb_registry_list_next(s))
        err = fsb_registry_input_(r, s, strcspn(s, "="), &value);
    s = fsb_registry_list_first(r->doc->fields);
    for (; s && !err; s = fsb_registry_list_next(s))
        if (!strncmp(s, "input.", 6))
            err = fsb_registry_input_(r, s + 6, strcspn(s + 6, "="), &value);
    return err;
}

static void fsb_registry_out_html_(fsb_registry_render_ *r, const char *text, size_t size)
{
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (size_t i = 0; i < size; ++i) {
        const char *odd = text[i] ? strchr(from, text[i]) : NULL;
        if (odd) fsb_registry_out_(r, to[odd - from], strlen(to[odd - from]));
        else fsb_registry_out_(r, text + i, 1);
    }
}

static void fsb_registry_out_json_(fsb_registry_render_ *r, const char *text, size_t size)
{
    fsb_registry_out_(r, "\"", 1);
    for (size_t i = 0; i < size; ++i) {
        char escape[8];
        if (text[i] == '"' || text[i] == '\\') snprintf(escape, sizeof escape, "\\%c", text[i]);
        else if ((uint8_t)text[i] < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)text[i]);
        else escape[0] = text[i], escape[1] = 0;
        fsb_registry_out_(r, escape, strlen(escape));
    }
    fsb_registry_out_(r, "\"", 1);
}

/* Inserts a value; filter 'j' json, 'h' html, 0 as it is. */
static int fsb_registry_insert_(fsb_registry_render_ *r, const fsb_registry_value_ref_ *value,
                                char filter)
{
    const char *text = value->plain ? value->text : fsb_registry_blank_(value->text, value->end);
    size_t      size = (size_t)(value->end - text);
    char       *copy = NULL;
    const size_t room = size + 1;
    if (!value->plain && *text == '"' && filter != 'j') { /* a JSON string inserts its text */
        copy = (char *)fsb_registry_mem_(&r->reg->desc.allocator, NULL, 0, room);
        if (!copy) return -ENOMEM;
        char *out = copy;
        fsb_registry_string_(text, value->end, &out);
        text = copy, size = (size_t)(out - copy) - 1;
    }
    if (filter == 'h') fsb_registry_out_html_(r, text, size);
    else if (filter == 'j' && value->plain) fsb_registry_out_json_(r, text, size);
    else fsb_registry_out_(r, text, size);
    fsb_registry_free_(&r->reg->desc.allocator, copy, room);
    return 0;
}

/* "name.part" of an expression; *s moves behind it. */
static int fsb_registry_path_value_(fsb_registry_render_ *r, const char **s, const char *end,
                                    fsb_registry_value_ref_ *value)
{
    const char *name = *s;
    while (*s < end && fsb_registry_name_char_(**s)) ++*s;
    int err = fsb_registry_input_(r, name, (size_t)(*s - name), value);
    while (!err && *s < end && **s == '.') {
        const char *part = ++*s;
        while (*s < end && fsb_registry_name_char_(**s)) ++*s;
        if (value->plain
            || !fsb_registry_json_member_(&value->text, &value->end, part, (size_t)(*s - part)))
            err = fsb_registry_fail_(r->reg, -ENODATA, "%.200s %.127s: \"%.*s\" has no such part",
                                     r->doc->id, r->doc->version,
                                     (int)(*s - name < 100 ? *s - name : 100), name);
    }
    return err;
}

/* What stands between "{{" and "}}", which *s moves behind. */
static int fsb_registry_expression_(fsb_registry_render_ *r, const char **s, const char *end,
                                    int line)
{
    fsb_registry_value_ref_ value;
    char                    filter = 0;
    const char             *p = fsb_registry_blank_(*s, end);
    int                     err = -EBADMSG;
    memset(&value, 0, sizeof value);
    if (p < end && *p == '"') {
        value.text = p;
        p = value.end = fsb_registry_string_(p, end, NULL);
        if (p) err = 0;
    } else if (p < end && fsb_registry_name_char_(*p)) {
        err = fsb_registry_path_value_(r, &p, end, &value);
        if (err) return err;
    }
    if (!err) p = fsb_registry_blank_(p, end);
    if (!err && p < end && *p == '|') {
        p = fsb_registry_blank_(p + 1, end);
        if (end - p >= 4 && !memcmp(p, "json", 4)) filter = 'j';
        else if (end - p >= 4 && !memcmp(p, "html", 4)) filter = 'h';
        else err = -EBADMSG;
        if (!err) p = fsb_registry_blank_(p + 4, end);
    }
    if (err || end - p < 2 || p[0] != '}' || p[1] != '}')
        return fsb_registry_fail_(r->reg, -EBADMSG, "%.200s %.127s: line %d: expected {{ name }}, "
                                  "{{ name | json }}, {{ name | html }} or {{ \"text\" }}",
                                  r->doc->id, r->doc->version, line);
    *s = p + 2;
    return fsb_registry_insert_(r, &value, filter);
}

FSB_API int64_t fsb_registry_render(fsb_registry *reg, const fsb_registry_doc *doc,
                                    const char *inputs, char *buf, size_t size)
{
    fsb_registry_render_ r = {reg, doc, inputs, buf, size, 0};
    const char          *s = (const char *)doc->content, *end;
    int                  line = 1, err;
    if (!s && doc->size) return fsb_registry_fail_(reg, -EINVAL, "%.200s: no content", doc->id);
    err = fsb_registry_inputs_check_(&r);
    if (!s) s = "";
    for (end = s + doc->size; !err && s < end;) {
        const char *open = s;
        while (open < end && !(*open == '{' && open + 1 < end && open[1] == '{'))
            line += *open++ == '\n';
        fsb_registry_out_(&r, s, (size_t)(open - s));
        s = open + 2;
        if (open == end) break;
        err = fsb_registry_expression_(&r, &s, end, line);
    }
    if (err) return err;
    if (size) buf[r.length < size ? r.length : size - 1] = 0;
    return (int64_t)r.length;
}

/* ---- [async] --------------------------------------------------------------------------------- */

struct fsb_registry_job_ {
    fsb_registry_job_ *next;
    fsb_registry      *reg;
    void (*done)(void *user, int result, fsb_registry_view *view);
    void              *user;
    const char        *id, *version; /* behind the struct */
    size_t             size;
};

static void fsb_registry_job_run_(void *arg)
{
    fsb_registry_job_ *job = (fsb_registry_job_ *)arg;
    fsb_registry      *reg = job->reg;
    fsb_registry_view  view;
    const int          err = fsb_registry_load(reg, job->id, job->version, &view);
    job->done(job->user, err, err ? NULL : &view);
    fsb_registry_free_(&reg->desc.allocator, job, job->size);
    pthread_mutex_lock(&reg->jobs_lock);
    --reg->jobs_live;
    pthread_cond_broadcast(&reg->jobs_cond);
    pthread_mutex_unlock(&reg->jobs_lock);
}

static void *fsb_registry_thread_(void *arg)
{
    fsb_registry *reg = (fsb_registry *)arg;
    pthread_mutex_lock(&reg->jobs_lock);
    while (reg->jobs || !reg->stopping) {
        fsb_registry_job_ *job = reg->jobs;
        if (!job) {
            pthread_cond_wait(&reg->jobs_cond, &reg->jobs_lock);
            continue;
        }
        reg->jobs = job->next;
        if (!reg->jobs) reg->jobs_end = &reg->jobs;
        pthread_mutex_unlock(&reg->jobs_lock);
        fsb_registry_job_run_(job);
        pthread_mutex_lock(&reg->jobs_lock);
    }
    pthread_mutex_unlock(&reg->jobs_lock);
    return NULL;
}

/* Hands a job to the object's own thread, which the first one starts. */
static int fsb_registry_job_queue_(fsb_registry *reg, fsb_registry_job_ *job)
{
    int err = 0;
    pthread_mutex_lock(&reg->jobs_lock);
    if (!reg->thread_started) {
        err = -pthread_create(&reg->thread, NULL, fsb_registry_thread_, reg);
        reg->thread_started = !err;
    }
    if (!err) {
        *reg->jobs_end = job, reg->jobs_end = &job->next;
        pthread_cond_broadcast(&reg->jobs_cond);
    }
    pthread_mutex_unlock(&reg->jobs_lock);
    return err;
}

FSB_API int fsb_registry_load_async(fsb_registry *reg, const char *id, const char *version,
                                    void (*done)(void *user, int result, fsb_registry_view *view),
                                    void *user)
{
    if (!id || !done) return fsb_registry_fail_(reg, -EINVAL, "load_async needs an id and done");
    const size_t id_size = strlen(id) + 1, ver_size = version ? strlen(version) + 1 : 0;
    const size_t size = sizeof(fsb_registry_job_) + id_size + ver_size;
    fsb_registry_job_ *job = (fsb_registry_job_ *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0,
                                                                    size);
    if (!job) return -ENOMEM;
    char *text = (char *)(job + 1);
    job->next = NULL, job->reg = reg, job->done = done, job->user = user, job->size = size;
    job->id      = fsb_registry_append_(&text, id, id_size);
    job->version = version ? fsb_registry_append_(&text, version, ver_size) : NULL;
    pthread_mutex_lock(&reg->jobs_lock);
    ++reg->jobs_live;
    pthread_mutex_unlock(&reg->jobs_lock);
    const fsb_runner *runner = &reg->desc.runner;
    const int err = runner->run ? runner->run(runner->user, fsb_registry_job_run_, job)
                                : fsb_registry_job_queue_(reg, job);
    if (!err) return 0;
    fsb_registry_free_(&reg->desc.allocator, job, size);
    pthread_mutex_lock(&reg->jobs_lock);
    --reg->jobs_live;
    pthread_mutex_unlock(&reg->jobs_lock);
    return fsb_registry_fail_(reg, err, "no thread for a load: %s", strerror(-err));
}

static void fsb_registry_jobs_end_(fsb_registry *reg)
{
    pthread_mutex_lock(&reg->jobs_lock);
    reg->stopping = 1;
    pthread_cond_broadcast(&reg->jobs_cond);
    while (reg->jobs_live) pthread_cond_wait(&reg->jobs_cond, &reg->jobs_lock);
    pthread_mutex_unlock(&reg->jobs_lock);
    if (reg->thread_started) pthread_join(reg->thread, NULL);
}

/* ---- [public] open --------------------------------------------------------------------------- */

static int fsb_registry_desc_check_(fsb_registry *reg)
{
    fsb_registry_desc *d = &reg->desc;
    if (d->shards > FSB_REGISTRY_SHARDS_MAX)
        return fsb_registry_fail_(reg, -EINVAL, "desc.shards must be 0 to 64");
    if (d->zstd_level < 0 || d->zstd_level > 19)
        return fsb_registry_fail_(reg, -EINVAL, "desc.zstd_level must be 0 to 19");
    if (d->max_views > FSB_REGISTRY_VIEWS_MOST_)
        return fsb_registry_fail_(reg, -EINVAL, "desc.max_views must be 0 to 65536");
    if (d->kind > FSB_REGISTRY_FOLDER || d->durability > FSB_REGISTRY_UNSAFE)
        return fsb_registry_fail_(reg, -EINVAL, "desc.kind or desc.durability is none of the enum");
#ifndef FSB_WITH_ZSTD
    if (d->zstd_level)
        return fsb_registry_fail_(reg, -ENOSYS, "compression needs a build with FSB_WITH_ZSTD");
#endif
    if (!d->max_bytes) d->max_bytes = FSB_UNLIMITED;
    if (!d->map_bytes) d->map_bytes = sizeof(void *) < 8 ? (uint64_t)256 << 20 : (uint64_t)16 << 30;
    if (d->map_bytes > d->max_bytes) d->map_bytes = d->max_bytes;
    if (d->map_bytes < 65536) d->map_bytes = 65536;
    if (d->map_bytes > SIZE_MAX / 2) d->map_bytes = SIZE_MAX / 2;
    if (!d->max_views) d->max_views = 256;
    if (!d->max_readers) d->max_readers = 1024;
    if (!d->wait_ms) d->wait_ms = 5000;
    if (!d->changes_kept) d->changes_kept = 100000;
    return 0;
}

#ifdef FSB_WITH_LMDB
/* Is anything but our own traces in the folder? A negative errno: it cannot be read. */
static int fsb_registry_in_use_(fsb_registry *reg)
{
    const int fd = openat(reg->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR      *dir = fd < 0 ? NULL : fdopendir(fd);
    int       used = 0;
    if (!dir) {
        const int err = -errno;
        if (fd >= 0) close(fd);
        return err;
    }
    errno = 0; /* which is all that tells an error from the end */
    for (struct dirent *d; (d = readdir(dir));)
        used |= d->d_name[0] != '.' && strncmp(d->d_name, "create.tmp", 10)
                && strncmp(d->d_name, "data", 4);
    if (errno) used = -errno;
    closedir(dir);
    return used;
}
#endif

/* An empty folder must be known as a plain folder the next time. */
static int fsb_registry_mark_(fsb_registry *reg)
{
    const int fd = openat(reg->dir, FSB_REGISTRY_MARK_, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return fsb_registry_fail_(reg, -errno, "%s: cannot write in it: %s", reg->path,
                                  strerror(errno));
    close(fd);
    return 0;
}

static int fsb_registry_kind_choose_(fsb_registry *reg)
{
    const int there = fsb_registry_there_(reg, "data.mdb");
    const int marked = there < 0 ? there : fsb_registry_there_(reg, FSB_REGISTRY_MARK_);
    if (marked < 0) return marked;
    if (reg->desc.kind == FSB_REGISTRY_FOLDER && there)
        return fsb_registry_fail_(reg, -EINVAL, "%s: an LMDB registry, not a plain folder; open it "
                                  "as what it is, or export it", reg->path);
    if (reg->desc.kind == FSB_REGISTRY_LMDB && marked && !there)
        return fsb_registry_fail_(reg, -EINVAL, "%s: a plain folder, not an LMDB registry; open it "
                                  "as what it is, or import it", reg->path);
    int used = marked;
#ifdef FSB_WITH_LMDB
    if (!there && !marked && reg->desc.kind == FSB_REGISTRY_AUTO) used = fsb_registry_in_use_(reg);
    if (used < 0)
        return fsb_registry_fail_(reg, used, "%s: cannot read the folder: %s", reg->path,
                                  strerror(-used));
#else
    used = 1;
#endif
    if (reg->desc.kind == FSB_REGISTRY_AUTO)
        reg->desc.kind = there || !used ? FSB_REGISTRY_LMDB : FSB_REGISTRY_FOLDER;
    if (reg->desc.kind == FSB_REGISTRY_FOLDER) {
        reg->ops = &fsb_registry_folder_ops_, reg->desc.shards = 1;
        return marked || reg->desc.read_only || reg->desc.must_exist ? 0
                                                                      : fsb_registry_mark_(reg);
    }
#ifdef FSB_WITH_LMDB
    reg->ops = &fsb_registry_lmdb_ops_;
    return fsb_registry_lmdb_open_(reg);
#else
    return fsb_registry_fail_(reg, -ENOSYS, "%s: LMDB needs a build with FSB_WITH_LMDB", reg->path);
#endif
}

/* Syncs the folder that holds `path`, so that the name itself survives a power loss. */
static int fsb_registry_parent_sync_(const char *path)
{
    char        parent[4300];
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (slash == path) snprintf(parent, sizeof parent, "/");
    const int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int       err = fd < 0 ? -errno : 0;
    if (!err && fsync(fd) < 0 && errno != EINVAL) err = -errno;
    if (fd >= 0) close(fd);
    return err;
}

static int fsb_registry_path_open_(fsb_registry *reg)
{
    const int create = !reg->desc.read_only && !reg->desc.must_exist;
    const int made = create && mkdir(reg->path, 0777) == 0, why = errno;
    if (made) {
        const int err = fsb_registry_parent_sync_(reg->path);
        if (err) return fsb_registry_fail_(reg, err, "%s: %s", reg->path, strerror(-err));
    }
    reg->dir = open(reg->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (reg->dir >= 0) return 0;
    if (create && !made && errno == ENOENT)
        return fsb_registry_fail_(reg, -why, "%s: cannot create the folder: %s", reg->path,
                                  strerror(why));
    return fsb_registry_fail_(reg, -errno, "%s: cannot open the folder: %s", reg->path,
                              strerror(errno));
}

FSB_API int fsb_registry_open(fsb_registry **out, const fsb_registry_desc *desc)
{
    if (!out || !desc || !desc->path || !*desc->path) return -EINVAL;
    size_t size = strlen(desc->path);
    if (size > FSB_REGISTRY_PATH_ - 100) return -ENAMETOOLONG;
    while (size > 1 && desc->path[size - 1] == '/') --size;
    fsb_registry *reg = (fsb_registry *)fsb_registry_mem_(&desc->allocator, NULL, 0,
                                                          sizeof *reg + size + 1);
    if (!reg) return -ENOMEM;
    memset(reg, 0, sizeof *reg);
    reg->desc = *desc, reg->dir = -1;
    reg->path = (char *)(reg + 1), reg->path_size = size + 1;
    memcpy(reg->path, desc->path, size);
    reg->path[size] = 0;
    reg->jobs_end = &reg->jobs;
    pthread_mutex_init(&reg->folder, NULL);
    pthread_mutex_init(&reg->text_lock, NULL);
    pthread_mutex_init(&reg->jobs_lock, NULL);
    pthread_cond_init(&reg->jobs_cond, NULL);
    int err = fsb_registry_desc_check_(reg);
    if (!err) err = fsb_registry_path_open_(reg);
    if (!err) err = fsb_registry_kind_choose_(reg);
    if (err) {
        fsb_registry_close(reg);
        return err;
    }
    reg->desc.path = reg->path, reg->desc.indexed = NULL; /* the caller's text may be gone */
    *out = reg;
    return 0;
}

FSB_API void fsb_registry_close(fsb_registry *reg)
{
    if (!reg) return;
    fsb_registry_jobs_end_(reg);
    if (reg->ops) reg->ops->close(reg);
    if (reg->dir >= 0) close(reg->dir);
    pthread_mutex_destroy(&reg->folder);
    pthread_mutex_destroy(&reg->text_lock);
    pthread_mutex_destroy(&reg->jobs_lock);
    pthread_cond_destroy(&reg->jobs_cond);
    const fsb_allocator a = reg->desc.allocator;
    fsb_registry_free_(&a, reg, sizeof *reg + reg->path_size);
}

/* ---- [public] read and find ------------------------------------------------------------------ */

static int fsb_registry_id_check_(fsb_registry *reg, const char *id)
{
    if (!id || !*id) return fsb_registry_fail_(reg, -EINVAL, "an id must not be empty");
    if (strlen(id) <= FSB_REGISTRY_ID_MAX) return 0;
    return fsb_registry_fail_(reg, -ENAMETOOLONG, "%.100s...: an id has at most 1024 bytes", id);
}

FSB_API int fsb_registry_load(fsb_registry *reg, const char *id, const char *version,
                              fsb_registry_view *view)
{
    const fsb_registry_pick_ pick = fsb_registry_pick_of_(id ? id : "", version);
    if (pick.id_size - 1 >= FSB_REGISTRY_ID_MAX) return fsb_registry_id_check_(reg, id);
    if (version && pick.version_size - 1 >= FSB_REGISTRY_VERSION_MAX)
        return fsb_registry_fail_(reg, *version ? -ENAMETOOLONG : -EINVAL,
                                  "%.200s: a version has 1 to 127 bytes, not %zu", id,
                                  pick.version_size);
    return reg->ops->load(reg, &pick, view);
}

FSB_API int fsb_registry_load_range(fsb_registry *reg, const char *id, const char *range,
                                    fsb_registry_view *view)
{
    fsb_registry_range_ parsed;
    const int           err = fsb_registry_id_check_(reg, id);
    if (err) return err;
    if (!range || fsb_registry_range_read_(&parsed, range) < 0)
        return fsb_registry_fail_(reg, -EINVAL, "%.200s: not a range: %.100s; write one like ^1.2 "
                                  "or \">=1.0 <2\"", id, range ? range : "(none)");
    fsb_registry_pick_ pick = fsb_registry_pick_of_(id, NULL);
    pick.range = &parsed;
    return reg->ops->load(reg, &pick, view);
}

FSB_API int64_t fsb_registry_each(fsb_registry *reg, const fsb_registry_query *query,
                                  int (*fn)(void *user, const fsb_registry_doc *doc), void *user)
{
    fsb_registry_scan_ scan;
    int                err = query->id ? fsb_registry_id_check_(reg, query->id) : 0;
    if (err) return err;
    memset(&scan, 0, offsetof(fsb_registry_scan_, range));
    scan.reg = reg, scan.query = query, scan.fn = fn, scan.user = user;
    scan.id_size = scan.last_size = 0, scan.last = NULL;
    scan.matched = 0, scan.settled = scan.passed = scan.holding = 0;
    if (query->range && fsb_registry_range_read_(&scan.range, query->range) < 0)
        return fsb_registry_fail_(reg, -EINVAL, "not a range: %.100s; write one like ^1.2 or "
                                  "\">=1.0 <2\"", query->range);
    if (query->id) {
        scan.id_size = fsb_registry_id_key_(scan.id, query->id);
    } else if (query->prefix) { /* past that, keys do not follow the id: the rest is filtered */
        scan.id_size = strlen(query->prefix);
        if (scan.id_size > FSB_REGISTRY_ID_HEAD_) scan.id_size = FSB_REGISTRY_ID_HEAD_;
        memcpy(scan.id, query->prefix, scan.id_size);
    }
    err = reg->ops->each(reg, &scan);
    if (scan.holding) fsb_registry_release(&scan.held);
    return err < 0 ? err : scan.matched;
}

/* ---- [public] write -------------------------------------------------------------------------- */

/* Says what a refused write means; returns err. */
static int fsb_registry_explain_(fsb_registry *reg, int err, const char *id, const char *version,
                                 const char *expected)
{
    if (err == -EEXIST)
        return fsb_registry_fail_(reg, err, "%.200s %.127s: is there already; save a new version, "
                                  "or ask to replace it", id, version);
    if (err == -ESTALE && expected)
        return fsb_registry_fail_(reg, err, "%.200s: its latest version is not \"%.127s\" any "
                                  "more; load it again", id, expected);
    if (err == -ESTALE)
        return fsb_registry_fail_(reg, err, "%.200s %.127s: was saved meanwhile; load it again",
                                  id, version);
    if (err == -ENOENT)
        return fsb_registry_fail_(reg, err, "%.200s %.127s: is not there", id,
                                  version ? version : "");
    return err;
}

static int fsb_registry_writable_(fsb_registry *reg)
{
    return reg->desc.read_only ? fsb_registry_fail_(reg, -EROFS, "%s: opened for reading only",
                                                    reg->path) : 0;
}

/* Encodes for LMDB; a folder writes the documents themselves. */
static int fsb_registry_records_(fsb_registry *reg, const fsb_registry_doc *docs, size_t count,
                                 fsb_registry_record_ *records)
{
    for (size_t i = 0; i < count; ++i) {
        const char *why;
        int         err = fsb_registry_doc_check_(&docs[i], &why);
        if (err)
            return fsb_registry_fail_(reg, err, "%.200s %.127s: %s",
                                      fsb_registry_text_(docs[i].id),
                                      fsb_registry_text_(docs[i].version), why);
        if (reg->desc.kind == FSB_REGISTRY_LMDB)
            err = fsb_registry_encode_(&reg->desc, &docs[i], &records[i]);
        if (err) return err;
    }
    return 0;
}

static int fsb_registry_write_docs_(fsb_registry *reg, fsb_registry_write_ *w)
{
    w->result = 0;
    reg->ops->write(reg, w->docs[0].id, w);
    const fsb_registry_doc *doc = &w->docs[w->failed];
    return fsb_registry_explain_(reg, (int)w->result, doc->id, doc->version, w->expected);
}

FSB_API int fsb_registry_save_if(fsb_registry *reg, const fsb_registry_doc *doc,
                                 const char *expected, fsb_registry_mode mode)
{
    fsb_registry_record_ record = {NULL, 0, 0};
    fsb_registry_write_  w;
    int                  err = fsb_registry_writable_(reg);
    if (err) return err;
    memset(&w, 0, sizeof w);
    w.docs = doc, w.records = &record, w.count = 1, w.mode = mode, w.expected = expected;
    err = fsb_registry_records_(reg, doc, 1, &record);
    if (!err) err = fsb_registry_write_docs_(reg, &w);
    fsb_registry_free_(&reg->desc.allocator, record.data, record.room);
    return err;
}

FSB_API int fsb_registry_save(fsb_registry *reg, const fsb_registry_doc *doc,
                              fsb_registry_mode mode)
{
    return fsb_registry_save_if(reg, doc, NULL, mode);
}

/* The shards' parts of a batch, one after another; docs and records are ours to reorder. */
static int fsb_registry_save_parts_(fsb_registry *reg, fsb_registry_doc *docs,
                                    fsb_registry_record_ *records, size_t count,
                                    fsb_registry_mode mode)
{
    fsb_registry_write_ w;
    int                 err = 0;
    memset(&w, 0, sizeof w);
    w.mode = mode;
    for (size_t from = 0; from < count && !err; from += w.count) {
        const uint32_t shard = fsb_registry_shard_(reg, docs[from].id);
        size_t         to = from;
        for (size_t i = from; i < count; ++i) {
            if (fsb_registry_shard_(reg, docs[i].id) != shard) continue;
            const fsb_registry_doc     doc = docs[i];
            const fsb_registry_record_ record = records[i];
            docs[i] = docs[to], docs[to] = doc;
            records[i] = records[to], records[to] = record;
            ++to;
        }
        w.docs = docs + from, w.records = records + from, w.count = to - from, w.failed = 0;
        err = fsb_registry_write_docs_(reg, &w);
    }
    return err;
}

FSB_API int fsb_registry_save_batch(fsb_registry *reg, const fsb_registry_doc *docs, size_t count,
                                    fsb_registry_mode mode)
{
    const size_t each = sizeof(fsb_registry_doc) + sizeof(fsb_registry_record_);
    int          err = fsb_registry_writable_(reg);
    if (err || !count) return err;
    if (count > SIZE_MAX / each) return -E2BIG;
    char *block = (char *)fsb_registry_mem_(&reg->desc.allocator, NULL, 0, count * each);
    if (!block) return -ENOMEM;
    fsb_registry_doc     *copies = (fsb_registry_doc *)(void *)block;
    fsb_registry_record_ *records = (fsb_registry_record_ *)(void *)(copies + count);
    memcpy(copies, docs, count * sizeof *copies);
    memset(records, 0, count * sizeof *records);
    err = fsb_registry_records_(reg, docs, count, records);
    if (!err) err = fsb_registry_save_parts_(reg, copies, records, count, mode);
    for (size_t i = 0; i < count; ++i)
        fsb_registry_free_(&reg->desc.allocator, records[i].data, records[i].room);
    fsb_registry_free_(&reg->desc.allocator, block, count * each);
    return err;
}

FSB_API int64_t fsb_registry_delete(fsb_registry *reg, const char *id, const char *version)
{
    fsb_registry_write_ w;
    fsb_registry_ver_   ver;
    int                 err = fsb_registry_writable_(reg);
    if (!err) err = fsb_registry_id_check_(reg, id);
    if (!err && version && (err = fsb_registry_ver_read_(&ver, version)) < 0)
        fsb_registry_fail_(reg, err, "%.200s: a version has 1 to 127 bytes", id);
    if (err) return err;
    memset(&w, 0, sizeof w);
    w.id = id, w.version = version;
    reg->ops->write(reg, id, &w);
    return w.result < 0 ? fsb_registry_explain_(reg, (int)w.result, id, version, NULL) : w.result;
}

FSB_API int fsb_registry_sync(fsb_registry *reg)
{
    const int err = fsb_registry_writable_(reg);
    return err ? err : reg->ops->sync(reg);
}

/* ---- [public] watch and look after ----------------------------------------------------------- */

FSB_API int64_t fsb_registry_changes(fsb_registry *reg, fsb_registry_position *at,
                                     int (*fn)(void *user, const fsb_registry_change *change),
                                     void *user)
{
    return reg->ops->changes(reg, at, fn, user);
}

FSB_API int fsb_registry_now(fsb_registry *reg, fsb_registry_position *at)
{
    return reg->ops->now(reg, at);
}

FSB_API int fsb_registry_stat(fsb_registry *reg, fsb_registry_stats *out)
{
    fsb_registry_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.kind = reg->desc.kind, stats.shards = reg->desc.shards;
    const int err = reg->ops->stat(reg, &stats);
    if (!err) *out = stats;
    return err;
}

FSB_API int64_t fsb_registry_verify(fsb_registry *reg,
                                    void (*bad)(void *user, const char *what, int error,
                                                const char *text),
                                    void *user)
{
    return reg->ops->verify(reg, bad, user);
}

/* Removes a folder and what is in it: a few levels, made by ourselves. */
static void fsb_registry_remove_(fsb_registry *reg, const char *path)
{
    fsb_registry_files_ files;
    fsb_registry_desc   desc = reg->desc;
    fsb_registry       *old;
    static const char *const names[] = {"create.tmp", "data.mdb-lock", "data.mdb",
                                        FSB_REGISTRY_MARK_};
    char                name[4400];
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        snprintf(name, sizeof name, "%s/%s", path, names[i]);
        unlink(name);
    }
    for (unsigned i = 1; i < FSB_REGISTRY_SHARDS_MAX; ++i) {
        snprintf(name, sizeof name, "%s/data-%u.mdb", path, i);
        unlink(name);
        snprintf(name, sizeof name, "%s/data-%u.mdb-lock", path, i);
        unlink(name);
    }
    desc.path = path, desc.kind = FSB_REGISTRY_FOLDER;
    desc.read_only = 0, desc.must_exist = 1, desc.durability = FSB_REGISTRY_UNSAFE;
    if (rmdir(path) < 0 && fsb_registry_open(&old, &desc) == 0) {
        fsb_registry_files_init_(&files, old, NULL);
        fsb_registry_files_all_(&files);
        for (size_t i = 0; i < files.count; ++i) {
            char *file = files.at[i].key + files.at[i].key_size;
            unlinkat(old->dir, file, 0);
            for (char *s; (s = strrchr(file, '/'));) {
                *s = 0;
                unlinkat(old->dir, file, AT_REMOVEDIR);
            }
        }
        fsb_registry_files_free_(&files);
        fsb_registry_close(old);
        rmdir(path);
    }
}

/* Gives what was made in `aside` its name. */
static int fsb_registry_appear_(fsb_registry *reg, const char *aside, const char *path)
{
    const int dir = open(aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int       err = dir < 0 || fsync(dir) < 0 ? -errno : 0;
    if (dir >= 0) close(dir);
    if (!err && rename(aside, path) < 0) err = errno == ENOTEMPTY ? -EEXIST : -errno;
    if (!err) err = fsb_registry_parent_sync_(path);
    if (err) fsb_registry_fail_(reg, err, "%.400s: %s", path, strerror(-err));
    return err;
}

FSB_API int fsb_registry_backup(fsb_registry *reg, const char *path, int compact)
{
    char        aside[FSB_REGISTRY_PATH_];
    struct stat st;
    if (!path || !*path || strlen(path) > sizeof aside - 100)
        return fsb_registry_fail_(reg, -EINVAL, "a backup needs a path");
    if (lstat(path, &st) == 0)
        return fsb_registry_fail_(reg, -EEXIST, "%.400s: is there already; name a new path", path);
    snprintf(aside, sizeof aside, "%s.new-%ld", path, (long)getpid());
    if (mkdir(aside, 0777) < 0)
        return fsb_registry_fail_(reg, -errno, "%.400s: %s", path, strerror(errno));
    int err = reg->ops->backup(reg, aside, compact);
    if (!err) err = fsb_registry_appear_(reg, aside, path);
    if (err) fsb_registry_remove_(reg, aside);
    return err;
}

FSB_API int fsb_registry_backup_fd(fsb_registry *reg, int fd, int compact)
{
#ifdef FSB_WITH_LMDB
    if (reg->desc.kind == FSB_REGISTRY_LMDB && reg->desc.shards == 1)
        return fsb_registry_env_copy_(reg->envs, NULL, fd, compact);
#endif
    (void)fd, (void)compact;
    return fsb_registry_fail_(reg, -ENOTSUP, "%s: only an LMDB registry of one shard is one "
                              "stream; back up to a path", reg->path);
}

static int fsb_registry_file_copy_(const char *from, const char *to)
{
    char      buf[65536];
    ssize_t   n = 0;
    const int in = open(from, O_RDONLY | O_CLOEXEC);
    const int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int       err = out < 0 ? -errno : 0;
    while (!err && (n = read(in, buf, sizeof buf)) > 0)
        err = fsb_registry_write_all_(out, (const uint8_t *)buf, (size_t)n);
    if (n < 0 || (!err && fsync(out) < 0)) err = -errno;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return err;
}

/* Opens `from`, a registry, verifies it, and copies it to desc->path. */
static int fsb_registry_restore_from_(const fsb_registry_desc *desc, const char *from)
{
    fsb_registry_desc d = *desc;
    fsb_registry     *backup;
    d.path = from, d.read_only = 1, d.kind = FSB_REGISTRY_AUTO, d.shards = 0;
    int err = fsb_registry_open(&backup, &d);
    if (err) return err;
    const int64_t problems = fsb_registry_verify(backup, NULL, NULL);
    if (problems < 0) err = (int)problems;
    if (problems > 0)
        err = fsb_registry_fail_(backup, -EBADMSG, "%s: this backup is damaged (%lld problems); "
                                 "verify tells which", from, (long long)problems);
    if (!err) err = fsb_registry_backup(backup, desc->path, 0);
    fsb_registry_close(backup);
    return err;
}

FSB_API int fsb_registry_restore(const fsb_registry_desc *desc, const char *backup)
{
    char        aside[FSB_REGISTRY_PATH_], name[FSB_REGISTRY_PATH_ + 50];
    struct stat st;
    if (!desc || !desc->path || !backup || strlen(desc->path) > sizeof aside - 100) return -EINVAL;
    if (lstat(desc->path, &st) == 0) return -EEXIST;
    if (stat(backup, &st) < 0) return -errno;
    if (S_ISDIR(st.st_mode)) return fsb_registry_restore_from_(desc, backup);
    snprintf(aside, sizeof aside, "%s.restore-%ld", desc->path, (long)getpid());
    if (mkdir(aside, 0777) < 0) return -errno;
    snprintf(name, sizeof name, "%s/data.mdb", aside);
    int err = fsb_registry_file_copy_(backup, name);
    if (!err) err = fsb_registry_restore_from_(desc, aside);
    unlink(name);
    strcat(name, "-lock");
    unlink(name);
    rmdir(aside);
    return err;
}

/* ---- [public] copy: import and export -------------------------------------------------------- */

enum { FSB_REGISTRY_COPY_DOCS_ = 256, FSB_REGISTRY_COPY_BYTES_ = 4 << 20 };

typedef struct fsb_registry_copy_ {
    fsb_registry        *from, *to;
    fsb_registry_mode    mode;
    fsb_registry_report *report;
    fsb_registry_bad_    bad;
    void                *user;
    size_t               count, bytes;
    fsb_registry_doc     docs[FSB_REGISTRY_COPY_DOCS_];
    fsb_registry_view    views[FSB_REGISTRY_COPY_DOCS_]; /* own the docs' bytes */
} fsb_registry_copy_;

static void fsb_registry_copy_bad_(void *user, const char *what, int err, const char *text)
{
    fsb_registry_copy_ *c = (fsb_registry_copy_ *)user;
    ++c->report->failed;
    if (c->bad) c->bad(c->user, what, err, text);
}

static int fsb_registry_same_(const fsb_registry_doc *a, const fsb_registry_doc *b)
{
    const size_t tags = fsb_registry_list_size_(a->tags);
    const size_t fields = fsb_registry_list_size_(a->fields);
    return !strcmp(a->id, b->id) && !strcmp(a->version, b->version)
           && !strcmp(a->description, b->description) && !strcmp(a->content_type, b->content_type)
           && tags == fsb_registry_list_size_(b->tags) && !memcmp(a->tags, b->tags, tags)
           && fields == fsb_registry_list_size_(b->fields) && !memcmp(a->fields, b->fields, fields)
           && a->size == b->size && !memcmp(a->content, b->content, (size_t)a->size)
           && a->created_ns == b->created_ns && a->updated_ns == b->updated_ns;
}

static void fsb_registry_copy_check_(fsb_registry_copy_ *c, const fsb_registry_doc *doc)
{
    fsb_registry_view view;
    ++c->report->migrated;
    if (fsb_registry_load(c->to, doc->id, doc->version, &view) == 0) {
        const int same = fsb_registry_same_(doc, &view.doc);
        fsb_registry_release(&view);
        if (same) return;
    }
    ++c->report->mismatched;
    if (c->bad) c->bad(c->user, doc->id, -EBADMSG, "mismatch: it reads differently in the copy");
}

/* Saves what was collected: as one batch, or if that fails one by one, to tell which and why. */
static void fsb_registry_copy_flush_(fsb_registry_copy_ *c)
{
    const int all = fsb_registry_save_batch(c->to, c->docs, c->count, c->mode);
    for (size_t i = 0; i < c->count; ++i) {
        const fsb_registry_doc *doc = &c->docs[i];
        char                    text[512];
        /* a folder's batch may have come half way: what is as it should be is no failure */
        int err = all ? fsb_registry_save(c->to, doc, c->mode) : 0;
        if (err) {
            if (fsb_registry_errmsg(c->to, text, sizeof text) <= 0)
                snprintf(text, sizeof text, "%s", strerror(-err));
            fsb_registry_copy_bad_(c, doc->id, err, text);
        } else {
            fsb_registry_copy_check_(c, doc);
        }
        fsb_registry_release(&c->views[i]);
    }
    c->count = c->bytes = 0;
}

static int fsb_registry_copy_doc_(void *user, const fsb_registry_doc *doc)
{
    fsb_registry_copy_ *c = (fsb_registry_copy_ *)user;
    fsb_registry_view  *view = &c->views[c->count];
    fsb_registry_view_init_(view, c->from);
    view->block_size_ = fsb_registry_doc_size_(doc);
    view->block_ = fsb_registry_mem_(&c->from->desc.allocator, NULL, 0, view->block_size_);
    if (!view->block_) return -ENOMEM;
    fsb_registry_doc_copy_(&c->docs[c->count], doc, (char *)view->block_);
    c->bytes += view->block_size_;
    if (++c->count == FSB_REGISTRY_COPY_DOCS_ || c->bytes >= FSB_REGISTRY_COPY_BYTES_)
        fsb_registry_copy_flush_(c);
    return 0;
}

FSB_API int fsb_registry_copy(fsb_registry *from, fsb_registry *to, fsb_registry_mode mode,
                              fsb_registry_report *report,
                              void (*bad)(void *user, const char *what, int error,
                                          const char *text),
                              void *user)
{
    fsb_registry_query  query;
    fsb_registry_report unused;
    const fsb_allocator *a = &from->desc.allocator;
    int                 err = fsb_registry_writable_(to);
    if (err) return err;
    if (from == to || mode == FSB_REGISTRY_SWAP)
        return fsb_registry_fail_(to, -EINVAL, "copy needs two registries, and new or replace");
    fsb_registry_copy_ *c = (fsb_registry_copy_ *)fsb_registry_mem_(a, NULL, 0, sizeof *c);
    if (!c) return -ENOMEM;
    memset(c, 0, sizeof *c);
    memset(&query, 0, sizeof query);
    query.content = 1, query.bad = fsb_registry_copy_bad_;
    c->from = from, c->to = to, c->mode = mode, c->bad = bad, c->user = user;
    c->report = report ? report : &unused;
    memset(c->report, 0, sizeof *c->report);
    const int64_t n = fsb_registry_each(from, &query, fsb_registry_copy_doc_, c);
    fsb_registry_copy_flush_(c);
    err = n < 0 ? (int)n : c->report->failed || c->report->mismatched ? -EIO : 0;
    fsb_registry_free_(a, c, sizeof *c);
    return err;
}

/* ---- [public] versions ----------------------------------------------------------------------- */

FSB_API int fsb_registry_version_compare(const char *a, const char *b)
{
    fsb_registry_ver_ x, y;
    const int         bad_a = fsb_registry_ver_read_(&x, a) < 0;
    const int         bad_b = fsb_registry_ver_read_(&y, b) < 0;
    if (bad_a || bad_b) return bad_b - bad_a;
    return fsb_registry_bytes_compare_(x.key, x.size, y.key, y.size);
}

FSB_API int fsb_registry_version_match(const char *version, const char *range)
{
    fsb_registry_range_ parsed;
    fsb_registry_ver_   ver;
    if (!range || fsb_registry_range_read_(&parsed, range) < 0) return -EINVAL;
    return fsb_registry_ver_read_(&ver, version) == 0 && fsb_registry_range_has_(&parsed, &ver);
}

FSB_API int fsb_registry_version_bump(const char *version, fsb_registry_part part,
                                      char out[FSB_REGISTRY_VERSION_MAX + 1])
{
    fsb_registry_partial_ p;
    fsb_registry_ver_     ver;
    if (fsb_registry_ver_read_(&ver, version) < 0 || ver.kind == FSB_REGISTRY_V_TEXT_
        || !fsb_registry_partial_read_(&p, version) || p.given != 3)
        return -EINVAL;
    int finish = ver.kind == FSB_REGISTRY_V_PRE_; /* 2.0.0-rc.1: its major bump is 2.0.0 itself */
    for (int i = (int)part + 1; i < 3; ++i) finish &= !p.n[i];
    if (!finish) {
        ++p.n[part];
        for (int i = (int)part + 1; i < 3; ++i) p.n[i] = 0;
    }
    snprintf(out, FSB_REGISTRY_VERSION_MAX + 1, "%llu.%llu.%llu", (unsigned long long)p.n[0],
             (unsigned long long)p.n[1], (unsigned long long)p.n[2]);
    return 0;
}

#endif /* POSIX */
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

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

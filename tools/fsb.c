/* fsb.c - the command line of fsb: `fsb GROUP COMMAND ...`. Each group has a file of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fsb_registry.h"

int fsb_cmd_bench(int argc, char **argv);
int fsb_cmd_cache(int argc, char **argv);
int fsb_cmd_files(int argc, char **argv);
int fsb_cmd_registry(int argc, char **argv);
int fsb_cmd_session(int argc, char **argv);
int fsb_cmd_status(int argc, char **argv);
int fsb_cmd_token(int argc, char **argv);

/* argv[0] is the group's name; returns the exit status. */
static const struct {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} groups[] = {
    {"bench", "how fast a place is: fsb bench URL", fsb_cmd_bench},
    {"cache", "the disk cache of mounts: what is in it, is it well", fsb_cmd_cache},
    {"registry", "versioned documents", fsb_cmd_registry},
    {"session", "conversations, saved and searched", fsb_cmd_session},
    {"status", "how a running fsb-host or fsb-mount is, or a host behind a URL", fsb_cmd_status},
    {"token", "what tenants of fsb-host --tokens come with: create, show, revoke", fsb_cmd_token},
};

/* Commands of their own, all of fsb_files.c. */
static const char *const files[] = {"ls", "cat", "cp", "mv", "rm", "mkdir", "stat", "find",
                                    "tree", "du", "sync", "exec"};

static void usage(FILE *to)
{
    fprintf(to, "usage: fsb COMMAND [options] URL...\n       fsb GROUP COMMAND [options] ...\n\n"
                "  ls, cat, cp, mv, rm, mkdir, stat, find, tree, du, sync, exec\n"
                "             files here, over ssh and SFTP, on fsb hosts: fsb ls --help\n");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; ++i)
        fprintf(to, "  %-10s %s\n", groups[i].name, groups[i].about);
    fprintf(to, "\nfsb GROUP --help tells its commands. --version tells the version.\n"
                "--code-file FILE, before or behind COMMAND, has the join code of fsb:// URLs\n"
                "without one (-: stdin); FSB_CODE_FILE names such a file, FSB_CODE is a code.\n");
}

/* Takes --code-file, which every command knows, out of the options before the command and of those
   that follow it at once. Returns the new argc, or 0: its value is missing. */
static int take_code_file(int argc, char **argv)
{
    static const char option[] = "--code-file";
    const size_t      n = sizeof option - 1;
    int               words = 0;
    for (int i = 1; i < argc && strcmp(argv[i], "--") && words < 2; ++i) {
        const int takes = !strcmp(argv[i], option) ? 2 : 1;
        if (strncmp(argv[i], option, n) || (takes == 1 && argv[i][n] != '=')) {
            words += argv[i][0] != '-';
            continue;
        }
        if (i + takes > argc) return 0;
        if (setenv("FSB_CODE_FILE", takes == 2 ? argv[i + 1] : argv[i] + n + 1, 1)) return 0;
        memmove(argv + i, argv + i + takes, (size_t)(argc - i - takes + 1) * sizeof *argv);
        argc -= takes, --i;
    }
    return argc;
}

int main(int argc, char **argv)
{
    argc = take_code_file(argc, argv);
    if (!argc) return fprintf(stderr, "fsb: --code-file needs a FILE\n"), 2;
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return usage(stdout), 0;
    if (!strcmp(name, "--version")) return puts("fsb " FSB_VERSION), 0;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; ++i)
        if (!strcmp(name, groups[i].name)) return groups[i].run(argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof files / sizeof *files; ++i)
        if (!strcmp(name, files[i])) return fsb_cmd_files(argc - 1, argv + 1);
    if (*name) fprintf(stderr, "fsb: there is no command or group '%s'\n", name);
    usage(stderr);
    return 2;
}

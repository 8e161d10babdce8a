// A disk that may lose power at any moment, for a program that this is preloaded into (LD_PRELOAD): it keeps, outside the
// program's folder, what POSIX promises to survive. A file's content survives as of its last fsync or fdatasync, a
// folder's names as of the last fsync of the folder; whatever else the program did is not kept.
//
//   POWERCUT_ROOT    the folder that is watched, as an absolute path without links
//   POWERCUT_MIRROR  an empty folder for what survives:
//     file-<inode>   the content of a file
//     dir-<inode>    the names in a folder, one a line: kind (f, d or -), mode, inode, name
//     root           the inode of the watched folder
//   POWERCUT_FAIL    a file: while it is there, fdatasync of a file whose name has the file's first line in it is answered
//                    with EIO, and makes nothing durable
//
// All that is there when the first program starts has survived. The calls are caught by seccomp and not by symbols, because a program may
// well make them without libc. What is not caught (sync_file_range, msync, O_SYNC, renames, writes) makes nothing
// durable here, so that a gap in this file can only make the program look worse than it is.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#define FIRST_ARGUMENT(context) ((context)->uc_mcontext.gregs[REG_RDI])
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#define FIRST_ARGUMENT(context) ((context)->uc_mcontext.regs[0])
#else
#error "the registers of a system call are known for x86-64 and aarch64 alone"
#endif

// Marks the calls of this file, which pass the filter.
#define OURS UINT32_C(0x706f7772)
#define HELD_MAX 8192
#define CHUNK (256 * 1024)
// The smallest piece that is compared and copied; a multiple of every disk's sector.
#define PIECE 4096

static char root[PATH_MAX];
static int mirror;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ino_t held[HELD_MAX];
static int held_count;
static char now[CHUNK], before[CHUNK];

static void die(const char *what, const char *where) {
    fprintf(stderr, "powercut: %s %s: %s\n", what, where, strerror(errno));
    _exit(99);
}

// Keeps an inode from being given to another file after this one is removed: numbers are the names in the mirror.
static void hold(int folder, const char *name, ino_t inode) {
    for (int at = 0; at < held_count; at++)
        if (held[at] == inode) return;
    if (held_count == HELD_MAX) die("too many files", name);
    // O_PATH: the file is neither read nor written, and may be a socket.
    if (openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) < 0) {
        if (errno == ENOENT) return;
        die("hold", name);
    }
    held[held_count++] = inode;
}

// Brings the mirror of a file up to its content; only what differs is written.
static void keep_file(int file, ino_t inode) {
    char name[64];
    struct stat found;
    snprintf(name, sizeof name, "file-%ju", (uintmax_t)inode);
    int kept = openat(mirror, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (kept < 0) die("open", name);
    for (off_t at = 0;;) {
        ssize_t got = pread(file, now, CHUNK, at);
        if (got < 0) die("read", name);
        if (got == 0) break;
        ssize_t had = pread(kept, before, (size_t)got, at);
        if (had < 0) die("read", name);
        for (ssize_t piece = 0; piece < got; piece += PIECE) {
            ssize_t size = got - piece < PIECE ? got - piece : PIECE;
            int same = piece + size <= had && memcmp(now + piece, before + piece, (size_t)size) == 0;
            if (!same && pwrite(kept, now + piece, (size_t)size, at + piece) != size) die("write", name);
        }
        at += got;
    }
    if (fstat(file, &found) < 0 || ftruncate(kept, found.st_size) < 0) die("size", name);
    close(kept);
}

// Replaces the mirror of a folder's names as a whole.
static void keep_names(const char *folder, ino_t inode) {
    char name[64];
    snprintf(name, sizeof name, "dir-%ju", (uintmax_t)inode);
    DIR *names = opendir(folder);
    int new = openat(mirror, "new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *list = fdopen(new, "w");
    if (!names || !list) die("list", folder);
    for (struct dirent *entry; (entry = readdir(names));) {
        struct stat found;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (fstatat(dirfd(names), entry->d_name, &found, AT_SYMLINK_NOFOLLOW) < 0) continue;
        hold(dirfd(names), entry->d_name, found.st_ino);
        char kind = S_ISREG(found.st_mode) ? 'f' : S_ISDIR(found.st_mode) ? 'd' : '-';
        fprintf(list, "%c %o %ju %s\n", kind, found.st_mode & 07777, (uintmax_t)found.st_ino, entry->d_name);
    }
    closedir(names);
    if (fclose(list) || renameat(mirror, "new", mirror, name)) die("write", name);
}

// What is there when the program starts has survived.
static void keep_all(const char *folder) {
    struct stat found;
    DIR *names = opendir(folder);
    if (!names || fstat(dirfd(names), &found) < 0) die("open", folder);
    keep_names(folder, found.st_ino);
    for (struct dirent *entry; (entry = readdir(names));) {
        char path[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path) die("name", folder);
        if (lstat(path, &found) < 0) die("stat", path);
        if (S_ISDIR(found.st_mode)) keep_all(path);
        if (!S_ISREG(found.st_mode)) continue;
        int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (file < 0) die("open", path);
        keep_file(file, found.st_ino);
        close(file);
    }
    closedir(names);
}

// What this call makes durable, as it is when the call is made.
static void keep(int descriptor) {
    char link[64], path[PATH_MAX];
    struct stat found;
    size_t length = strlen(root);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t got = readlink(link, path, sizeof path - 1);
    if (got < 0) return;
    path[got] = 0;
    if (strncmp(path, root, length) || (path[length] != '/' && path[length] != 0)) return;
    if (fstat(descriptor, &found) < 0) die("stat", path);
    pthread_mutex_lock(&lock);
    if (S_ISDIR(found.st_mode)) {
        keep_names(link, found.st_ino);
    } else if (S_ISREG(found.st_mode)) {
        // A descriptor of our own: theirs may not be for reading.
        int file = open(link, O_RDONLY | O_CLOEXEC);
        if (file < 0) die("open", path);
        keep_file(file, found.st_ino);
        close(file);
    }
    pthread_mutex_unlock(&lock);
}

// True when the disk is to fail under this descriptor.
static int fails(int descriptor) {
    char link[64], path[PATH_MAX], part[NAME_MAX] = "";
    const char *named = getenv("POWERCUT_FAIL");
    int file = named ? open(named, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, part, sizeof part - 1);
    close(file);
    part[got > 0 ? got : 0] = 0;
    part[strcspn(part, "\n")] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    got = readlink(link, path, sizeof path - 1);
    if (got < 0) return 0;
    path[got] = 0;
    return strstr(path, part) != NULL;
}

static void caught(int signal, siginfo_t *info, void *context) {
    (void)signal;
    ucontext_t *registers = context;
    int saved = errno, descriptor = (int)FIRST_ARGUMENT(registers);
    if (info->si_syscall == SYS_fdatasync && fails(descriptor)) {
        RESULT(registers) = -EIO;
        errno = saved;
        return;
    }
    keep(descriptor);
    long result = syscall(info->si_syscall, descriptor, 0, 0, 0, 0, OURS);
    RESULT(registers) = result < 0 ? -errno : result;
    errno = saved;
}

static void catch_syncs(void) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGSYS, &action, NULL) < 0) die("sigaction", "SIGSYS");
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 0, 2),
        // The low half of the sixth argument.
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        die("seccomp", "fsync and fdatasync");
}

__attribute__((constructor)) static void start(void) {
    struct stat found;
    const char *watched = getenv("POWERCUT_ROOT"), *kept = getenv("POWERCUT_MIRROR");
    if (!watched || !kept) return;
    snprintf(root, sizeof root, "%s", watched);
    mirror = open(kept, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mirror < 0) die("open", kept);
    // Another program of the same life, before this one, has begun the mirror.
    if (faccessat(mirror, "root", F_OK, 0) < 0) {
        keep_all(root);
        if (stat(root, &found) < 0) die("stat", root);
        int file = openat(mirror, "root", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || dprintf(file, "%ju\n", (uintmax_t)found.st_ino) < 0) die("write", kept);
        close(file);
    }
    catch_syncs();
}

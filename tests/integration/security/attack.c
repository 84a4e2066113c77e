/* What an attacker does inside a container, one trick per command; built statically by the tests (conftest.py).
 * Every command prints what it met, so that a test can see that the attack was really tried. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif

static void say(const char *what, long result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
	fflush(stdout);
}

static int numeric(const char *name)
{
	return name[0] >= '1' && name[0] <= '9';
}

/* A child by clone(2) with these flags; it ends at once. */
static long cloned(unsigned long flags)
{
	long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, __WALL);
	return pid;
}

#ifdef __x86_64__
/* unshare(CLONE_NEWUSER) as programs of the other two architectures call it. */
static void other_architectures(void)
{
	for (int x32 = 0; x32 < 2; x32++) {
		pid_t child = fork();
		if (child == 0) {
			long result;
			if (x32)
				result = syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER) < 0 ? -errno : 0;
			else
				__asm__ volatile("int $0x80" : "=a"(result) : "a"(310), "b"(CLONE_NEWUSER) : "memory");
			_exit((int)-result);
		}
		int status = 0;
		waitpid(child, &status, 0);
		errno = WIFEXITED(status) ? WEXITSTATUS(status) : EFAULT;
		say(x32 ? "unshare-x32" : "unshare-i386", errno ? -1 : 0);
	}
}
#else
static void other_architectures(void)
{
	errno = EPERM;
	say("unshare-x32", -1);
	say("unshare-i386", -1);
}
#endif

static int calls(void)
{
	struct { uint64_t flags, rest[10]; } how = { CLONE_NEWUSER, { 0, 0, 0, SIGCHLD } };
	struct io_uring_params ring = { 0 };
	char buffer[4096] = { 0 };
	int own = open("/proc/self/ns/uts", O_RDONLY);

	other_architectures();
	say("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
	say("unshare-mount", syscall(SYS_unshare, CLONE_NEWNS));
	say("setns", syscall(SYS_setns, own, 0));
	say("clone-user", cloned(CLONE_NEWUSER));
	say("clone-mount", cloned(CLONE_NEWNS));
	say("clone-pid", cloned(CLONE_NEWPID));
	say("clone-plain", cloned(0));
	say("clone3", syscall(SYS_clone3, &how, sizeof(how)));
	say("mount", syscall(SYS_mount, "tmpfs", "/tmp", "tmpfs", 0, 0));
	say("umount2", syscall(SYS_umount2, "/proc", MNT_DETACH));
	say("pivot_root", syscall(SYS_pivot_root, "/", "/"));
	say("fsopen", syscall(430, "tmpfs", 0));
	say("open_tree", syscall(428, AT_FDCWD, "/", 1));
	say("move_mount", syscall(429, -1, "", AT_FDCWD, "/tmp", 4));
	say("mount_setattr", syscall(442, AT_FDCWD, "/", 0, buffer, 32));
	say("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, buffer, O_RDONLY));
	say("bpf", syscall(SYS_bpf, 0, buffer, 72));
	say("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
	say("userfaultfd", syscall(SYS_userfaultfd, 0));
	say("io_uring_setup", syscall(425, 4, &ring));
	say("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
	say("init_module", syscall(SYS_init_module, buffer, 0, ""));
	say("delete_module", syscall(SYS_delete_module, "nosuch", 0));
	say("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
	say("request_key", syscall(SYS_request_key, "user", "x", 0, -3));
	say("keyctl", syscall(SYS_keyctl, 0, -3, 0));
	say("swapon", syscall(SYS_swapon, "/nosuch", 0));
	say("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
	say("acct", syscall(SYS_acct, "/nosuch"));
	say("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
	say("syslog", syscall(SYS_syslog, 3, buffer, 10));
	say("sethostname", syscall(SYS_sethostname, "x", 1));
	say("vsock", syscall(SYS_socket, 40, SOCK_STREAM, 0));
	return 0;
}

/* Until somebody makes the file STOP; for at most 30 seconds. */
static int goes_on(const char *stop)
{
	static time_t end;
	if (!end)
		end = time(NULL) + 30;
	return time(NULL) < end && access(stop, F_OK) != 0;
}

/* Exchange two paths again and again; the number of times in STATUS. */
static int swap(const char *one, const char *other, const char *stop, const char *status)
{
	long swaps = 0;
	char text[64];
	int report = open(status, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	while (goes_on(stop)) {
		for (int i = 0; i < 200; i++)
			if (syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2) == 0)
				swaps++;
		pwrite(report, text, snprintf(text, sizeof(text), "%ld\n", swaps), 0);
	}
	return 0;
}

/* Whenever something else is there: put a link to TARGET in the place of NAME. */
static int relink(const char *name, const char *target, const char *stop, const char *status)
{
	long times = 0;
	char text[64], spare[4096];
	struct stat found;
	int report = open(status, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	snprintf(spare, sizeof(spare), "%s.spare", name);
	while (goes_on(stop)) {
		for (int i = 0; i < 1000; i++) {
			(void)!symlink(target, spare);
			if (lstat(name, &found) == 0 && !S_ISLNK(found.st_mode) && rename(spare, name) == 0)
				times++;
		}
		(void)!pwrite(report, text, snprintf(text, sizeof(text), "%ld\n", times), 0);
	}
	return 0;
}

/* Open every process's executable for reading, then for writing, and write to it. */
static int executables(const char *stop)
{
	long seen = 0, opened = 0, written = 0;
	char path[300];

	while (goes_on(stop)) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		while ((entry = readdir(proc))) {
			if (!numeric(entry->d_name) || atoi(entry->d_name) == getpid() || atoi(entry->d_name) == 1)
				continue;
			seen++;
			snprintf(path, sizeof(path), "/proc/%s/exe", entry->d_name);
			int reading = open(path, O_RDONLY);
			if (reading < 0)
				continue;
			opened++;
			int modes[] = { O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC, O_WRONLY | O_APPEND };
			for (int i = 0; i < 4; i++) {
				snprintf(path, sizeof(path), "/proc/self/fd/%d", reading);
				int writing = open(path, modes[i]);
				if (writing >= 0) {
					struct stat status;
					/* The container's own files may be written to: only what has no name in here counts. */
					if (fstat(writing, &status) == 0 && status.st_nlink == 0 && pwrite(writing, "", 1, 0) == 1)
						written++;
					close(writing);
				}
			}
			close(reading);
		}
		closedir(proc);
	}
	printf("seen %ld opened %ld written %ld\n", seen, opened, written);
	return 0;
}

/* Does PATH exist below the root or working directory of any process? Also /proc/<pid>/map_files. */
static int roots(const char *stop, const char *canary)
{
	long seen = 0, entered = 0, found = 0, mapped = 0;
	char path[512];
	struct stat status;

	while (goes_on(stop)) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		while ((entry = readdir(proc))) {
			if (!numeric(entry->d_name) || atoi(entry->d_name) == getpid() || atoi(entry->d_name) == 1)
				continue;
			seen++;
			snprintf(path, sizeof(path), "/proc/%s/root/", entry->d_name);
			entered += stat(path, &status) == 0;
			snprintf(path, sizeof(path), "/proc/%s/root%s", entry->d_name, canary);
			found += stat(path, &status) == 0;
			snprintf(path, sizeof(path), "/proc/%s/cwd/../../../../../..%s", entry->d_name, canary);
			found += stat(path, &status) == 0;
			snprintf(path, sizeof(path), "/proc/%s/map_files", entry->d_name);
			DIR *maps = opendir(path);
			struct dirent *map;
			while (maps && (map = readdir(maps))) {
				int writing = map->d_name[0] == '.' ? -1 : openat(dirfd(maps), map->d_name, O_RDWR);
				if (writing >= 0) {
					mapped++;
					close(writing);
				}
			}
			if (maps)
				closedir(maps);
		}
		closedir(proc);
	}
	printf("seen %ld entered %ld found %ld mapped %ld\n", seen, entered, found, mapped);
	return 0;
}

/* Make device nodes and open them. Arguments: "c 1 1" and so on. */
static int nodes(int count, char **arguments)
{
	for (int i = 0; i + 2 < count; i += 3) {
		char kind = arguments[i][0], path[64];
		int major = atoi(arguments[i + 1]), minor = atoi(arguments[i + 2]);
		snprintf(path, sizeof(path), "/tmp/%c-%d-%d", kind, major, minor);
		long made = mknod(path, (kind == 'b' ? S_IFBLK : S_IFCHR) | 0666, makedev(major, minor));
		printf("%c %d:%d mknod %s ", kind, major, minor, made < 0 ? strerrorname_np(errno) : "ok");
		int opened = open(path, O_RDWR | O_NONBLOCK);
		printf("open %s\n", opened < 0 ? strerrorname_np(errno) : "ok");
		if (opened >= 0)
			close(opened);
	}
	return 0;
}

static void put(const char *path, const char *text)
{
	int descriptor = open(path, O_WRONLY);
	if (descriptor >= 0) {
		(void)!write(descriptor, text, strlen(text));
		close(descriptor);
	}
}

/* A new user namespace gives all capabilities in it: what can be done with them? */
static int regain(void)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char text[64];

	long made = unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | 0x02000000);
	say("unshare", made);
	if (made < 0)
		return 0;
	put("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "0 %d 1", uid);
	put("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "0 %d 1", gid);
	put("/proc/self/gid_map", text);
	if (fork() == 0) {
		mkdir("/tmp/m", 0755);
		say("tmpfs", mount("t", "/tmp/m", "tmpfs", 0, ""));
		say("umount-kcore", umount2("/proc/kcore", MNT_DETACH));
		say("umount-keys", umount2("/proc/keys", MNT_DETACH));
		say("remount-proc-sys", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0));
		say("new-proc", mount("proc", "/tmp/m", "proc", 0, ""));
		say("new-sys", mount("sysfs", "/tmp/m", "sysfs", 0, ""));
		long v1 = mount("cgroup", "/tmp/m", "cgroup", 0, "memory");
		say("cgroup-v1", v1);
		if (v1 == 0) {
			int agent = open("/tmp/m/release_agent", O_WRONLY);
			say("release_agent", agent < 0 ? agent : write(agent, "/x", 2));
		}
		say("device", mknod("/tmp/m/mem", S_IFCHR | 0666, makedev(1, 1)));
		_exit(0);
	}
	wait(NULL);
	return 0;
}

/* keys make NAME SECRET | keys find NAME | keys read SERIAL */
static int keys(int count, char **a)
{
	char value[256] = { 0 };

	if (count > 2 && !strcmp(a[0], "make")) {
		long key = syscall(SYS_add_key, "user", a[1], a[2], strlen(a[2]), -3 /* the session's keyring */);
		say("add_key", key);
		printf("serial %ld session %ld\n", key, syscall(SYS_keyctl, 0, -3, 0));
		syscall(SYS_keyctl, 11, key, value, sizeof(value));
		printf("value %s\n", value);
	} else if (count > 1 && !strcmp(a[0], "find")) {
		say("request_key", syscall(SYS_request_key, "user", a[1], 0, 0));
	} else if (count > 1) {
		long serial = atol(a[1]);
		say("read", syscall(SYS_keyctl, 11, serial, value, sizeof(value)));
		say("link", syscall(SYS_keyctl, 8, serial, -3));
		say("describe", syscall(SYS_keyctl, 6, serial, value, sizeof(value)));
		say("chown", syscall(SYS_keyctl, 4, serial, 0, 0));
		printf("value %s\n", value);
	}
	fflush(stdout);
	return 0;
}

/* Trace and signal every process id that could exist; what is ours does not count. */
static int trace(int last)
{
	long traced = 0, signalled = 0;

	for (int pid = 1; pid <= last; pid++) {
		if (pid == getpid() || pid == getppid() || pid == 1)
			continue;
		traced += ptrace(PTRACE_SEIZE, pid, 0, 0) == 0;
		signalled += kill(pid, 0) == 0;
	}
	printf("traced %ld signalled %ld\n", traced, signalled);
	pid_t child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	say("trace-own-child", ptrace(PTRACE_SEIZE, child, 0, 0));
	say("signal-own-child", kill(child, SIGKILL));
	return 0;
}

/* Claim that a gigabyte of zeros is the command line. */
static int cmdline(void)
{
	size_t size = 1UL << 30;
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct prctl_mm_map map = { 0 };
	char line[1024];
	FILE *file = fopen("/proc/self/stat", "r");

	if (!fgets(line, sizeof(line), file))
		return 1;
	unsigned long field[52] = { 0 };
	char *rest = strrchr(line, ')') + 2;
	for (int i = 2; i < 52 && rest; i++, rest = strchr(rest, ' ') ? strchr(rest, ' ') + 1 : NULL)
		field[i] = strtoul(rest, NULL, 10);
	map.start_code = field[25], map.end_code = field[26], map.start_stack = field[27];
	map.start_data = field[44], map.end_data = field[45], map.start_brk = field[46], map.brk = (uint64_t)sbrk(0);
	map.arg_start = (uint64_t)area, map.arg_end = (uint64_t)(area + size - 1);
	map.env_start = field[49], map.env_end = field[50];
	map.exe_fd = (uint32_t)-1;
	say("set-mm", prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0));
	pause();
	return 0;
}

/* Which of my descriptors lead somewhere that has PATH below it? */
static int descriptors(const char *canary)
{
	struct stat status;
	char path[600];
	int found = 0, directories = 0;

	for (int number = 0; number < 1024; number++) {
		if (fstat(number, &status) != 0)
			continue;
		if (number > 2)
			printf("open %d\n", number);
		if (S_ISDIR(status.st_mode)) {
			directories++;
			snprintf(path, sizeof(path), "../../../../../../../..%s", canary);
			found += faccessat(number, path, F_OK, 0) == 0;
		}
	}
	printf("directories %d found %d\n", directories, found);
	snprintf(path, sizeof(path), "../../../../../../../../..%s", canary);
	printf("cwd %s\n", access(path, F_OK) == 0 ? "escaped" : "inside");
	return 0;
}

static int abstract_socket(const char *name, struct sockaddr_un *address)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	strncpy(address->sun_path + 1, name, sizeof(address->sun_path) - 2);
	return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

/* Say "retire" to whoever listens at the abstract socket NAME. */
static int retire(const char *name)
{
	struct sockaddr_un address;
	char answer[64] = { 0 };
	int size = abstract_socket(name, &address), sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	say("connect", connect(sock, (struct sockaddr *)&address, size));
	(void)!send(sock, "retire", 6, MSG_NOSIGNAL);
	(void)!recv(sock, answer, sizeof(answer) - 1, 0);
	printf("answer %s.\n", answer);
	return 0;
}

/* Take the abstract name NAME, and answer "retired" to whoever comes. */
static int squat(const char *name)
{
	struct sockaddr_un address;
	char text[64];
	int size = abstract_socket(name, &address), sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	say("bind", bind(sock, (struct sockaddr *)&address, size));
	say("listen", listen(sock, 4));
	for (;;) {
		int caller = accept(sock, NULL, NULL);
		(void)!recv(caller, text, sizeof(text), 0);
		(void)!send(caller, "retired", 7, MSG_NOSIGNAL);
		close(caller);
	}
}

/* Count how often somebody opens FILE; it is not opened by a look at it alone (O_PATH). */
static int opened(const char *file, const char *stop)
{
	char events[4096];
	long times = 0;
	int watch = inotify_init1(IN_NONBLOCK);

	say("watch", inotify_add_watch(watch, file, IN_OPEN));
	while (goes_on(stop)) {
		long size = read(watch, events, sizeof(events));
		if (size > 0)
			times += size / (long)sizeof(struct inotify_event);
		usleep(1000);
	}
	printf("opened %ld\n", times);
	return 0;
}

int main(int count, char **a)
{
	const char *what = count > 1 ? a[1] : "";

	if (!strcmp(what, "calls"))
		return calls();
	if (!strcmp(what, "swap") && count == 6)
		return swap(a[2], a[3], a[4], a[5]);
	if (!strcmp(what, "relink") && count == 6)
		return relink(a[2], a[3], a[4], a[5]);
	if (!strcmp(what, "executables") && count == 3)
		return executables(a[2]);
	if (!strcmp(what, "roots") && count == 4)
		return roots(a[2], a[3]);
	if (!strcmp(what, "nodes"))
		return nodes(count - 2, a + 2);
	if (!strcmp(what, "regain"))
		return regain();
	if (!strcmp(what, "keys"))
		return keys(count - 2, a + 2);
	if (!strcmp(what, "trace") && count == 3)
		return trace(atoi(a[2]));
	if (!strcmp(what, "cmdline"))
		return cmdline();
	if (!strcmp(what, "descriptors") && count == 3)
		return descriptors(a[2]);
	if (!strcmp(what, "retire") && count == 3)
		return retire(a[2]);
	if (!strcmp(what, "squat") && count == 3)
		return squat(a[2]);
	if (!strcmp(what, "opened") && count == 4)
		return opened(a[2], a[3]);
	fprintf(stderr, "attack: unknown command\n");
	return 2;
}

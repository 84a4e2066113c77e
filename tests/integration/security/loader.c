/* An attacker's dynamic loader: the host's interpreter, executed in the container as /proc/self/exe, names it as its
 * own, and so it runs with that interpreter behind /proc/self/exe (CVE-2019-5736). Without a C library, as the auxiliary
 * vector describes another program. */
#include <asm/unistd.h>
#include <fcntl.h>

static long call(long number, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static unsigned long length(const char *text)
{
	unsigned long size = 0;
	while (text[size])
		size++;
	return size;
}

static void say(const char *text)
{
	call(__NR_write, 1, (long)text, length(text), 0);
}

static void tell(const char *what, long result)
{
	say(what);
	say(result >= 0 ? " SUCCEEDED\n" : " refused\n");
}

void _start(void)
{
	char name[] = "/proc/self/fd/0";
	long reading = call(__NR_open, (long)"/proc/self/exe", O_RDONLY, 0, 0);

	tell("read", reading);
	name[14] = (char)('0' + reading);
	tell("write", call(__NR_open, (long)name, O_WRONLY, 0, 0));
	tell("truncate", call(__NR_open, (long)name, O_WRONLY | O_TRUNC, 0, 0));
	tell("append", call(__NR_open, (long)name, O_RDWR | O_APPEND, 0, 0));
	tell("direct", call(__NR_open, (long)"/proc/self/exe", O_RDWR, 0, 0));
	tell("resize", call(__NR_truncate, (long)name, 0, 0, 0));
	call(__NR_exit_group, 7, 0, 0, 0);
}

/* A PKCS#11 module that passes everything on to another one (FAULTY_MODULE)
 * but for the faults that the file FAULTY_MODE names. Logs every login to
 * FAULTY_LOGINS. Types as PKCS#11 2.40 has them, no more than is needed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef ulong (*any)();

struct list {
	unsigned char version[2];
	any call[68];
};

enum { LIST = 3, SLOTS = 4, TOKEN = 6, OPEN = 12, LOGIN = 18, SIGN_INIT = 42, DERIVE = 62 };
enum { DEVICE_REMOVED = 0x32, PIN_LOCKED = 0xa4, SESSION_INVALID = 0xb3, NOT_PRESENT = 0xe0 };

static struct list real, ours;

static char *mode(void)
{
	static __thread char text[64];
	FILE *file = fopen(getenv("FAULTY_MODE"), "r");
	size_t read = file ? fread(text, 1, sizeof text - 1, file) : 0;
	text[read] = 0;
	if (file)
		fclose(file);
	return text;
}

/* "slow MS": every operation takes that long. "removed": the token is gone.
 * "reset": the next operation finds its session closed. */
static ulong fault(void)
{
	char *text = mode();
	if (!strncmp(text, "slow ", 5))
		usleep(1000 * atoi(text + 5));
	if (!strcmp(text, "removed"))
		return DEVICE_REMOVED;
	if (!strcmp(text, "reset")) {
		fclose(fopen(getenv("FAULTY_MODE"), "w"));
		return SESSION_INVALID;
	}
	return 0;
}

static ulong sign_init(ulong session, void *mechanism, ulong key)
{
	ulong failed = fault();
	return failed ? failed : real.call[SIGN_INIT](session, mechanism, key);
}

static ulong derive(ulong session, void *mechanism, ulong key, void *attributes, ulong count,
		    ulong *made)
{
	ulong failed = fault();
	return failed ? failed : real.call[DERIVE](session, mechanism, key, attributes, count, made);
}

static ulong slots(unsigned char present, ulong *list, ulong *count)
{
	if (present && !strcmp(mode(), "removed")) {
		*count = 0;
		return 0;
	}
	return real.call[SLOTS](present, list, count);
}

static ulong token(ulong slot, void *info)
{
	return strcmp(mode(), "removed") ? real.call[TOKEN](slot, info) : NOT_PRESENT;
}

static ulong open_session(ulong slot, ulong flags, void *data, void *notify, ulong *session)
{
	return strcmp(mode(), "removed") ? real.call[OPEN](slot, flags, data, notify, session)
					 : NOT_PRESENT;
}

static ulong login(ulong session, ulong user, unsigned char *pin, ulong length)
{
	FILE *log = fopen(getenv("FAULTY_LOGINS"), "a");
	ulong outcome = strcmp(mode(), "locked") ? real.call[LOGIN](session, user, pin, length)
						 : PIN_LOCKED;
	fprintf(log, "%lx\n", outcome);
	fclose(log);
	return outcome;
}

static ulong own_list(struct list **out);

__attribute__((visibility("default"))) ulong C_GetFunctionList(struct list **out)
{
	void *module = dlopen(getenv("FAULTY_MODULE"), RTLD_NOW);
	ulong (*get)(struct list **) = module ? dlsym(module, "C_GetFunctionList") : 0;
	struct list *found;
	if (!get || get(&found))
		return 5;
	real = ours = *found;
	ours.call[LIST] = (any)own_list;
	ours.call[SLOTS] = (any)slots;
	ours.call[TOKEN] = (any)token;
	ours.call[OPEN] = (any)open_session;
	ours.call[LOGIN] = (any)login;
	ours.call[SIGN_INIT] = (any)sign_init;
	ours.call[DERIVE] = (any)derive;
	*out = &ours;
	return 0;
}

static ulong own_list(struct list **out)
{
	*out = &ours;
	return 0;
}

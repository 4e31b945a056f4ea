// Talking to the server. A reply is {ok: true, ...}, {ok: false, failed, valid, run} or, where it raised, undefined.

const PATIENCE = 180000;
// The first question to a pair may have to fetch its models.
const LONG_PATIENCE = 1800000;
const NO_ANSWER = {
  ok: false,
  failed: "The server gave no answer.",
  valid: "everything on the page stays as it was; move a slider to ask again.",
};

async function ask(send, request, patience = PATIENCE) {
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, patience)));
  try {
    const reply = await Promise.race([send(request), late]);
    return reply && typeof reply.ok === "boolean" ? reply : NO_ANSWER;
  } catch {
    return NO_ANSWER;
  } finally {
    clearTimeout(timer);
  }
}

// One request in flight and one that waits; a newer one takes the place of the one that waits.
// take(reply, request) gets every reply that carries its request's number.
function makeChannel(send, take) {
  let flying = false;
  let waiting = null;

  async function post(request) {
    if (flying) {
      waiting = request;
      return;
    }
    flying = true;
    const reply = await ask(send, request);
    flying = false;
    const next = waiting;
    waiting = null;
    if (next) post(next);
    if (reply.seq === undefined || reply.seq === request.seq) take(reply, request);
  }

  return {
    post,
    drop: () => (waiting = null),
    busy: () => flying,
  };
}

// Copies without a clipboard permission, too (plain http pages have no navigator.clipboard).
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = part("textarea", "kfs-sr");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

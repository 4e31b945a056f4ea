// Talking to the server. A reply is {ok: true, ...}, {ok: false, busy, failed, valid, run, is_command} or,
// where it raised, undefined. One that is busy is asked again, ever less often.

const PATIENCE = 180000;
// The first question to a pair may have to fetch its models.
const LONG_PATIENCE = 1800000;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 4000;
const NO_ANSWER = {
  ok: false,
  failed: "The server gave no answer.",
  run: "move a slider to ask again; everything on the page stays as it was",
};

// newer(): whether another question has taken this one's place; busy(reply): told of each such reply, and null after.
async function ask(send, request, { patience = PATIENCE, newer = () => false, busy = () => {} } = {}) {
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, patience)));
  try {
    let reply = await Promise.race([send(request), late]);
    for (let pause = FIRST_PAUSE; reply && reply.busy; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      busy(reply);
      await Promise.race([new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random()))), late]);
      if (newer()) {
        busy(null);
        return reply;
      }
      reply = await Promise.race([send(request), late]);
      if (!reply || !reply.busy) busy(null);
    }
    return reply && typeof reply.ok === "boolean" ? reply : NO_ANSWER;
  } catch {
    return NO_ANSWER;
  } finally {
    clearTimeout(timer);
  }
}

// One request in flight and one that waits; a newer one takes the place of the one that waits.
// take(reply, request) gets every reply that carries its request's number, but for those that were too busy.
function makeChannel(send, take, busy) {
  let flying = false;
  let waiting = null;

  async function post(request) {
    if (flying) {
      waiting = request;
      return;
    }
    flying = true;
    const reply = await ask(send, request, { newer: () => waiting !== null, busy });
    flying = false;
    const next = waiting;
    waiting = null;
    if (next) post(next);
    if (!reply.busy && (reply.seq === undefined || reply.seq === request.seq)) take(reply, request);
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

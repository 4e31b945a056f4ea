// What the page says of what it draws (view.js).

import assert from "node:assert/strict";
import { test } from "node:test";

import { diced, heated } from "../../../kfexplore/figures/assets/state.js";
import { noiseText, originText, percentOf, quoted } from "../../../kfexplore/figures/assets/view.js";
import { fileName } from "../../../kfexplore/figures/assets/components.js";
import { Server, arrived, sessionOn } from "./played.js";

test("no quotation mark is doubled around a prompt", () => {
  assert.equal(quoted("He said"), "“He said”");
  assert.equal(quoted('"Why," said'), '‘"Why," said’');
});

test("the time of the first tracks is not said of others", async () => {
  const server = new Server();
  const session = sessionOn(server, { ...server.first(), seconds: 1.28 });
  const origin = () => originText(session.state.context, session.state.tracks);
  assert.match(origin(), /computed in 1\.28 s, stored with the page\.$/);
  session.move(diced(session.state), true);
  await arrived();
  assert.match(origin(), /64 steps per track\.$/);
  server.every = 8;
  session.move(heated(session.state, 0.5), true);
  await arrived();
  assert.match(origin(), /temperature 0\.5; 64 steps per track\. The server is busy/);
});

test("a noise value is shown with four digits and never as 1", () => {
  assert.deepEqual([0.2705078125, 0.5, 0.00001234567, 0.99996].map(noiseText), ["0.2705", "0.5", "0.00001235", "0.99996"]);
});

test("a share is 100 % only where all of it agrees", () => {
  assert.deepEqual([1, 511 / 512, 0.99, 0.5, 0].map(percentOf), ["100 %", "> 99 %", "99 %", "50 %", "0 %"]);
});

test("the image of a figure is named by the beginning of its finding", () => {
  assert.equal(fileName("Independent draws give impossible blocks 50 % of the time, the exact map never."),
    "independent-draws-give-impossible-blocks-50-of-the");
});

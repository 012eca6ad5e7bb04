// Start workers and ask them to do a step: a message {id, step, ...} is answered by {id, result}
// or {id, error}. What has no id is news of the work.

/** Start a worker and return the function that asks it: a step and its arguments, a promise. */
export function startWorker(news) {
  const waiting = new Map(), url = new URL("worker.mjs", import.meta.url).href;
  // A worker made from a blob is bound by the content policy of the page.
  const start = new Blob([`import ${JSON.stringify(url)};`], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(start), { type: "module" });
  worker.onmessage = ({ data: { id, result, error, ...rest } }) => {
    if (!id) return news(rest);
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    return error ? reject(new Error(error)) : resolve(result);
  };
  const broken = new Promise((_, reject) => (worker.onerror = () => reject(
    new Error("The scripts of this page could not be loaded: load it anew."))));
  broken.catch(() => {}); // whoever asks is told
  let last = 0;
  return (step, args = {}) => Promise.race([broken, new Promise((...ends) => {
    waiting.set(++last, ends);
    worker.postMessage({ id: last, step, ...args });
  })]);
}

/** Choose how networks are run: on the graphics card, by threads, or by several workers. */
export async function plan() {
  const cores = Math.min(navigator.hardwareConcurrency || 1, 4);
  const card = await navigator.gpu?.requestAdapter().catch(() => null);
  if (card && !card.info?.isFallbackAdapter) return { kind: "webgpu", threads: 1, workers: 1 };
  const threads = globalThis.crossOriginIsolated ? cores : 1; // else they are not to be had
  return { kind: "wasm", threads, workers: cores / threads };
}

/** Load a file from the folder of the page. */
export async function fetched(url) {
  const reply = await fetch(url).catch(() => ({ status: "no answer" }));
  const bytes = reply.ok && (await reply.arrayBuffer().catch(() => null));
  if (bytes) return bytes;
  throw new Error(`${url.split("/").pop()} could not be loaded (${
    reply.ok ? "the connection broke" : reply.status}): try again.`);
}

// Chunks of samples: inside the page, or scripts beside it that are loaded when a sample is opened.
const chunks = new Map(); // number -> promise of its samples
const CHUNKS_HELD = 12;
const waiting = new Map();

// Called by the scripts beside the page.
function cokvChunk(place, text) {
  waiting.get(place)?.(text);
}

async function inflate(text, format) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunkText(place, folder) {
  const inside = document.getElementById(`chunk-${place}`);
  if (inside) return Promise.resolve(JSON.parse(inside.textContent));
  return new Promise((resolve, reject) => {
    const source = `${folder}/${String(place).padStart(4, "0")}.js`;
    const script = make("script", { src: source });
    waiting.set(place, resolve);
    script.addEventListener("load", () => script.remove());
    script.addEventListener("error", () => reject(new Error(`${source} is not beside this page`)));
    document.head.append(script);
  });
}

function loadChunk(place, folder) {
  if (!chunks.has(place)) {
    const loaded = chunkText(place, folder)
      .then((text) => inflate(text, "gzip"))
      .then((bytes) => JSON.parse(new TextDecoder().decode(bytes)));
    loaded.catch(() => chunks.delete(place));
    chunks.set(place, loaded);
    if (chunks.size > CHUNKS_HELD) chunks.delete(chunks.keys().next().value);
  }
  return chunks.get(place);
}

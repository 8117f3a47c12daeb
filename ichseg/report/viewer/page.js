"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const parsed = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);

  // --- table: sort, filter, open -------------------------------------------------------------------------------
  const body = byId("table").tBodies[0];
  const order = { failed: 0, flagged: 1, ok: 2, skipped: 3 };
  const key = (row, column) => {
    const text = row.cells[column].textContent;
    if (text in order && row.cells[column].className.startsWith("status")) return order[text];
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // empty cells last, whichever way
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return typeof a === "number" ? -1 : 1;
  };
  document.querySelectorAll("#table th").forEach((heading, column) => {
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending" ||
        (heading.classList.contains("number") && heading.getAttribute("aria-sort") !== "descending");
      document.querySelectorAll("#table th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => [key(row, column), row]);
      keyed.sort(([a], [b]) => (a === "" || b === "" ? compare(a, b) : (down ? -1 : 1) * compare(a, b)));
      keyed.forEach(([, row]) => body.append(row));
    };
    heading.tabIndex = 0;
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  const filter = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    byId("shown").textContent = words.length ? `${shown} of ${body.rows.length}` : `${shown} scans`;
  };
  byId("filter").addEventListener("input", filter);
  filter();
  const reach = (row) => {
    const card = row.dataset.open && byId(`card-${row.dataset.open}`);
    if (card) { fill(card); card.scrollIntoView({ block: "start" }); }
    else if (row.dataset.page) location.href = `${row.dataset.page}#scan=${encodeURIComponent(row.dataset.name)}`;
  };
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) reach(row);
  });
  body.addEventListener("keydown", (event) => { if (event.key === "Enter") reach(event.target.closest("tr")); });

  // --- cards ---------------------------------------------------------------------------------------------------
  const fill = (card) => {
    if (card.dataset.filled) return;
    card.dataset.filled = "yes";
    const picture = parsed(`picture-${card.dataset.number}`);
    const image = make("img");
    image.alt = `slices ${picture.numbers.join(", ")} of ${card.dataset.name} with outlines`;
    image.decoding = "sync"; // a page that is printed does not wait
    image.src = `data:image/jpeg;base64,${picture.montage}`;
    if (!card.querySelector("button").disabled) {
      image.className = "opens";
      image.title = "Click a slice to open it in the viewer";
      image.addEventListener("click", (event) => {
        const place = Math.floor(event.offsetX / image.clientWidth * picture.numbers.length);
        view(card.about, picture.numbers[Math.min(picture.numbers.length - 1, Math.max(0, place))]);
      });
    }
    card.querySelector(".line").after(image);
  };
  const near = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) { fill(one.target); near.unobserve(one.target); }
  }, { rootMargin: "800px" });
  const cards = byId("cases");
  for (const data of document.querySelectorAll("script.case")) {
    const about = JSON.parse(data.textContent);
    const card = make("article", undefined, "card");
    card.id = `card-${about.number}`;
    card.dataset.number = about.number;
    card.dataset.name = about.case;
    card.about = about;
    const line = make("div", undefined, "line");
    line.append(make("h3", about.case), make("span", about.status, `status-${about.status}`), make("span", about.summary));
    const button = make("button", "View the volume");
    button.type = "button";
    button.disabled = !byId(`volume-${about.number}`);
    if (button.disabled) button.title = "not included, to limit the size of the report";
    button.addEventListener("click", () => view(about));
    line.append(button);
    card.append(line);
    const said = about.message.split("; ").filter((part) => part);
    const [notes, flags] = [said.filter((part) => part.startsWith("note: ")), said.filter((part) => !part.startsWith("note: "))];
    if (flags.length) card.append(make("p", flags.join("; "), "message"));
    if (notes.length) card.append(make("p", notes.join("; "), "hint"));
    cards.append(card);
    near.observe(card);
  }
  addEventListener("beforeprint", () => document.querySelectorAll(".card").forEach(fill));

  // --- viewer --------------------------------------------------------------------------------------------------
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  let niivueView = null;
  let open = null;

  // The slices lie side by side in one picture; back to a NIfTI volume in Hounsfield units.
  const nifti = async (volume) => {
    const picture = new Image();
    picture.src = `data:image/jpeg;base64,${volume.jpeg}`;
    await picture.decode();
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [picture.width, picture.height];
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const [width, height, slices] = volume.shape;
    const buffer = new ArrayBuffer(352 + width * height * slices);
    const header = new DataView(buffer);
    header.setInt32(0, 348, true);
    [3, width, height, slices, 1, 1, 1, 1].forEach((n, i) => header.setInt16(40 + 2 * i, n, true));
    header.setInt16(70, 2, true);
    header.setInt16(72, 8, true);
    [1, ...volume.spacing].forEach((n, i) => header.setFloat32(76 + 4 * i, n, true));
    header.setFloat32(108, 352, true);
    header.setFloat32(112, volume.slope, true);
    header.setFloat32(116, volume.offset, true);
    header.setUint8(123, 2);
    header.setInt16(254, 1, true);
    volume.affine.slice(0, 3).flat().forEach((n, i) => header.setFloat32(280 + 4 * i, n, true));
    [110, 43, 49, 0].forEach((n, i) => header.setUint8(344 + i, n));
    const voxels = new Uint8Array(buffer, 352);
    for (let z = 0; z < slices; z++) {
      const tile = context.getImageData((z % volume.columns) * width, Math.floor(z / volume.columns) * height, width, height);
      for (let i = 0; i < width * height; i++) voxels[z * width * height + i] = tile.data[4 * i];
    }
    return buffer;
  };
  const stored = (z) => (open.volume.reversed ? open.slices - z : z + 1);
  const say = (z) => {
    byId("viewer-slice").value = z + 1;
    byId("viewer-number").textContent = `${stored(z)} of ${open.slices}`;
  };
  const goTo = (z) => {
    const at = niivueView.scene.crosshairPos;
    niivueView.scene.crosshairPos = [at[0], at[1], (z + 0.5) / open.slices];
    niivueView.drawScene();
    say(z);
  };
  const planes = () => {
    const all = byId("viewer-planes").value === "all";
    niivueView.setSliceType(all ? niivueView.sliceTypeMultiplanar : niivueView.sliceTypeAxial);
  };
  // NiiVue gives millimeters to the right, to the front and to the head, and a value per volume. Where they count from
  // differs from scan to scan; the voxel of the file and the distance from the midline do not.
  const told = (where) => {
    const at = [...where.mm.slice(0, 3), 1];
    const along = (line) => line.reduce((sum, n, i) => sum + n * at[i], 0);
    const index = open.volume.stored.map((line) => Math.round(along(line)) + 1);
    const [, width, height, depth] = open.dims;
    const [i, j, k] = index.map((n) => n - 1);
    const there = i >= 0 && j >= 0 && k >= 0 && i < width && j < height && k < depth;
    const inside = there && open.filled[i + width * (j + height * k)] > 0; // whatever of the mask is drawn
    const [slice] = index.splice(open.volume.stored_axis, 1);
    let place = `slice ${slice}, column ${index[0]}, row ${index[1]}`;
    if (open.volume.midline) {
      const [x, y, z, offset] = open.volume.midline;
      const mm = along([x, y, z, -offset]);
      place += `, ${Math.abs(mm).toFixed(0)} mm ${mm > 0 ? "right" : "left"} of the midline`;
    }
    const scan = where.values[0].value;
    const { offset, slope } = open.volume;
    const [low, high] = [offset, offset + 255 * slope];
    const gray = scan <= low + slope ? `${low} HU or less` : scan >= high - slope ? `${high} HU or more` : `about ${scan.toFixed(0)} HU`;
    return `${place}: ${gray}${inside ? ", in the mask" : ""}`;
  };
  // Blood has to be seen under its mask: the outline is what is shown first.
  const outlined = (mask, axis, pixel) => {
    const [, width, height] = mask.hdr.dims;
    const steps = [1, width, width * height].filter((_, i) => i !== axis);
    const edges = mask.hdr.pixDims.slice(1, 4).filter((_, i) => i !== axis);
    let inner = mask.img;
    // A line thinner than a pixel of the picture would be dotted.
    for (let n = Math.ceil(pixel / Math.min(...edges)); n > 0; n--) {
      const outer = inner;
      inner = outer.map((value, i) => (value && steps.every((by) => outer[i - by] && outer[i + by]) ? value : 0));
    }
    return mask.img.map((value, i) => (inner[i] ? 0 : value));
  };
  const drawMask = () => {
    const mode = byId("viewer-mode").value;
    const mask = niivueView.volumes[1];
    mask.img = mode === "filled" ? open.filled : open.outline;
    niivueView.setOpacity(1, mode === "hidden" ? 0 : mode === "filled" ? 0.4 : 1);
    niivueView.updateGLVolume();
  };
  const step = (by) => {
    const z = Math.floor(niivueView.scene.crosshairPos[2] * open.slices) + by;
    if (z >= 0 && z < open.slices) goTo(z);
  };
  const keys = {
    ArrowUp: () => step(1), ArrowRight: () => step(1), ArrowDown: () => step(-1), ArrowLeft: () => step(-1),
    m: () => {
      const mode = byId("viewer-mode");
      [mode.dataset.before, mode.value] = [mode.value, mode.value === "hidden" ? mode.dataset.before || "outline" : "hidden"];
      drawMask();
    },
  };
  const close = () => {
    byId("viewer").hidden = true;
    open = null;
    document.body.style.overflow = "";
  };
  async function view(about, slice) {
    const volume = parsed(`volume-${about.number}`);
    open = { volume, slices: volume.shape[2], outline: null };
    byId("viewer").hidden = false;
    document.body.style.overflow = "hidden";
    byId("viewer-name").textContent = about.case;
    byId("viewer-text").textContent = "loading ...";
    byId("viewer-canvas").style.visibility = "hidden"; // a scan without its mask would look healthy
    byId("viewer-slice").max = open.slices;
    byId("viewer-slice").focus();
    if (!document.createElement("canvas").getContext("webgl2")) {
      byId("viewer-text").textContent = "The viewer needs WebGL 2, which this browser does not support. Open the masks in any NIfTI viewer.";
      return;
    }
    try {
      if (!niivueView) {
        niivueView = new niivue.Niivue({
          isRadiologicalConvention: true, backColor: [0, 0, 0, 1], crosshairWidth: 0.4, crosshairColor: [0.5, 0.8, 1, 0.35],
          show3Dcrosshair: false, logLevel: "error", dragAndDropEnabled: false,
        });
        await niivueView.attachToCanvas(byId("viewer-canvas"));
        niivueView.onLocationChange = (where) => {
          if (!open || where.values.length < 2) return;
          say(Math.min(open.slices - 1, Math.max(0, Math.floor(niivueView.scene.crosshairPos[2] * open.slices))));
          byId("viewer-text").textContent = told(where);
        };
      }
      while (niivueView.volumes.length) niivueView.removeVolume(niivueView.volumes[0]);
      await niivueView.loadFromArrayBuffer(await nifti(volume), "scan.nii");
      await niivueView.loadFromArrayBuffer(bytes(volume.mask).buffer, volume.mask_name);
      const [scan, mask] = niivueView.volumes;
      [scan.cal_min, scan.cal_max] = [0, 80];
      mask.colormap = "red";
      [mask.cal_min, mask.cal_max] = [0.5, 1];
      [open.filled, open.dims] = [mask.img, mask.hdr.dims];
      open.outline = outlined(mask, volume.stored_axis, Math.max(...volume.spacing.slice(0, 2)));
      drawMask();
      planes();
      const start = slice || volume.start;
      goTo(volume.reversed ? open.slices - start : start - 1);
      byId("viewer-canvas").style.visibility = "visible";
      byId("viewer").dataset.ready = about.case;
      byId("viewer-text").textContent = "Arrow keys or wheel: change slice. M: hide or show the mask. Right drag: adjust window. Left click: HU at a point.";
    } catch (error) {
      byId("viewer-text").textContent = `The viewer failed (${error.message}). Open the masks in any NIfTI viewer.`;
    }
  }
  byId("viewer-slice").addEventListener("input", (event) => goTo(Number(event.target.value) - 1));
  byId("viewer-mode").addEventListener("change", drawMask);
  byId("viewer-planes").addEventListener("change", planes);
  byId("viewer-close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (!open) return;
    if (event.key === "Escape") close();
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (act && open.outline && !event.ctrlKey && !event.metaKey && event.target.tagName !== "SELECT") {
      event.preventDefault();
      event.stopPropagation();
      act();
    }
  }, true);

  // report.html#scan=NAME goes to a scan, report.html#view=NAME opens it in the viewer.
  const follow = () => {
    const [what, text] = location.hash.slice(1).split(/=(.*)/s);
    let name = text;
    try { name = decodeURIComponent(text); } catch (error) { /* a bare % is one */ }
    const card = [...document.querySelectorAll(".card")].find((one) => one.dataset.name === name);
    if (!card) return;
    if (what === "view") { card.querySelector("button").click(); return; }
    fill(card);
    card.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", follow);
  follow();
})();

// Starts the 3D scenes, each in a frame of its own, and lets their buttons choose how the mesh is drawn.
const bytes = id => document.getElementById(id).textContent.trim();
const viewer = new TextDecoder().decode(Uint8Array.from(atob(bytes("viewer")), c => c.charCodeAt(0)));
const canvas = document.createElement("canvas");
const hasWebGL = Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));

for (const box of document.querySelectorAll(".scene")) {
  const frame = box.querySelector("iframe");
  if (!hasWebGL) {
    box.textContent = "This browser has no WebGL, which the 3D scene needs.";
    continue;
  }
  frame.srcdoc = viewer.replace(bytes("mark"), () => bytes(box.dataset.mesh));
  for (const button of box.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      for (const other of box.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
      frame.contentWindow.look(button.value);
    });
  }
}

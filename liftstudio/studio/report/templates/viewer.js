// Runs inside trimesh's viewer, whose globals are scene, renderer, camera, render and THREE.
renderer.outputEncoding = THREE.sRGBEncoding; // textures are sRGB; without this they are shown too dark
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { scene.background = new THREE.Color(dark.matches ? 0x23262b : 0xf4f5f7); };
paint();
dark.addEventListener("change", () => { paint(); if (camera) render(); });

// Normals in the world of the run, z up, as colours (n + 1) / 2.
const normals = {
  side: THREE.DoubleSide,
  vertexShader: `varying vec3 n;
    void main() {
      n = vec3(normal.x, -normal.z, normal.y);
      gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
    }`,
  fragmentShader: "varying vec3 n; void main() { gl_FragColor = vec4(normalize(n) * 0.5 + 0.5, 1.0); }",
};
const looks = {
  shaded: own => own,
  albedo: own => new THREE.MeshBasicMaterial({ map: own.map, vertexColors: own.vertexColors, side: THREE.DoubleSide }),
  normal: () => new THREE.ShaderMaterial(normals),
  wireframe: () => new THREE.MeshBasicMaterial({ color: 0x7a8699, wireframe: true }),
};

window.look = name => {
  scene.traverse(object => {
    if (!object.isMesh) return;
    object.userData.own = object.userData.own || object.material;
    object.material = looks[name](object.userData.own);
  });
  render();
};

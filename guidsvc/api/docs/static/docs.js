"use strict";

// Swagger UI has a dark mode, set by this class, but does not follow the color scheme of the system by itself.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Swagger UI puts a link into the button that opens an operation. Screen readers do not find a control in a control,
// so the path of an operation is plain text here. The button puts the same address into the address bar.
const plainPaths = ({ React }) => ({
  wrapComponents: {
    DeepLink: (Link) => (props) =>
      props.path.includes("/") ? React.createElement("span", null, props.text) : React.createElement(Link, props),
  },
});

// Swagger UI gives no name to some controls, without which a screen reader says only what kind of control it is.
const NAMES = { "#servers": "Server", ".examples-select-element": "Example", ".body-param__text": "Request body" };
const nameOf = (control) =>
  Object.entries(NAMES).find(([selector]) => control.matches(selector))?.[1] ??
  control.closest("[data-param-name]")?.dataset.paramName ??
  "Value";
const nameControls = () => {
  for (const control of document.querySelectorAll("#swagger-ui :is(select, textarea):not([aria-label])")) {
    control.setAttribute("aria-label", nameOf(control));
  }
};

// Without a mouse, only what has the focus can be scrolled.
const focusScrollable = () => {
  for (const code of document.querySelectorAll("#swagger-ui .microlight:not([tabindex])")) {
    if (code.scrollHeight > code.clientHeight) code.tabIndex = 0;
  }
};

new MutationObserver(() => {
  nameControls();
  focusScrollable();
}).observe(document.getElementById("swagger-ui"), { childList: true, subtree: true });

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
  plugins: [plainPaths],
});

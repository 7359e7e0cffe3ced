// Light, dark, or as the system has it. Loaded before the page is painted, so that it does not flash.

(() => {
  const KEY = "darkroom.theme";
  const ORDER = ["auto", "light", "dark"];
  const read = () => {
    try {
      return localStorage.getItem(KEY) ?? "auto";
    } catch {
      return "auto";
    }
  };
  const put = (theme) => {
    document.documentElement.dataset.theme = ORDER.includes(theme) ? theme : "auto";
  };
  put(read());
  addEventListener("DOMContentLoaded", () => {
    const toggle = document.querySelector("[data-theme-toggle]");
    const tell = () => toggle?.setAttribute("aria-label", `Theme: ${document.documentElement.dataset.theme}`);
    tell();
    toggle?.addEventListener("click", () => {
      const now = ORDER.indexOf(document.documentElement.dataset.theme);
      put(ORDER[(now + 1) % ORDER.length]);
      tell();
      try {
        localStorage.setItem(KEY, document.documentElement.dataset.theme);
      } catch {
        // Without storage the choice lasts as long as the page.
      }
    });
  });
})();

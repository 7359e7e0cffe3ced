// Signing in with an API key, where the gateway has access control. The key becomes an HttpOnly cookie: nothing is kept here.

import { Problem, session, signIn, signOut } from "./api.js";
import { setText, show } from "./dom.js";

const ANYBODY = { tenant: "default", name: null };

export class SignIn extends EventTarget {
  #dialog;
  #account;
  #asked = null;

  constructor(dialog, account) {
    super();
    this.#dialog = dialog;
    this.#account = account;
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
    // Without a key there is nothing behind the dialog that works.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    account.querySelector("[data-sign-out]").addEventListener("click", () => this.#leave());
    addEventListener("signed-out", () => this.#ask());
  }

  // Resolves to who is signed in, once somebody is: {tenant, name}.
  async somebody() {
    const told = await session().catch((problem) => {
      if (problem.status === 401) return { signed_in: false, needs_key: true };
      throw problem;
    });
    if (told && !told.signed_in && told.needs_key) {
      this.#ask();
      return new Promise((resolve) => {
        this.addEventListener("signed-in", ({ detail }) => resolve(detail), { once: true });
      });
    }
    const who = told?.tenant ? told : ANYBODY;
    this.#show(who, Boolean(told?.signed_in));
    return who;
  }

  #ask() {
    if (this.#dialog.open) return;
    this.#dialog.showModal();
  }

  async #try() {
    const field = this.#dialog.querySelector("[name=key]");
    const note = this.#dialog.querySelector("[data-note]");
    if (this.#asked) return;
    try {
      this.#asked = signIn(field.value.trim());
      await this.#asked;
      const who = (await session()) ?? ANYBODY;
      setText(note, "");
      field.value = "";
      this.#dialog.close();
      this.#show(who, true);
      this.dispatchEvent(new CustomEvent("signed-in", { detail: who }));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      setText(note, `${problem.detail} ${problem.remedy}`.trim());
      field.setAttribute("aria-invalid", "true");
      field.select();
    } finally {
      this.#asked = null;
    }
  }

  async #leave() {
    await signOut().catch(() => null);
    location.reload();
  }

  #show(who, mayLeave) {
    setText(this.#account.querySelector("[data-tenant]"), who.name ? `${who.tenant} · ${who.name}` : who.tenant);
    show(this.#account, mayLeave);
  }
}

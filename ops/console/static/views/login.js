// The form that begins a session.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Refused } from "../parts.js";
import { logIn } from "../session.js";

export function Login({ ended, refusal }) {
  const [error, setError] = useState(refusal);
  const [sending, setSending] = useState(false);
  const field = useRef();
  useEffect(() => {
    document.title = "Log in · Tandem console";
    field.current.focus();
  }, []);
  const send = (event) => {
    event.preventDefault();
    setSending(true);
    setError();
    logIn(field.current.value.trim()).catch((refused) => {
      setError(refused);
      setSending(false);
      field.current.focus();
    });
  };
  return html`
    <header class="top"><span class="name">Tandem</span></header>
    <main id="main" class="login">
      <h1>Log in</h1>
      <section class="panel">
        ${ended && html`<p role="status">Your session has ended.</p>`}
        <p>With a token or an API key of an operator, who may do all, or of an auditor, who may read. <code>just token operator</code> prints one.</p>
        <form onSubmit=${send}>
          <label class="field"><span>Token or API key</span>
            <input ref=${field} name="token" type="password" required autocomplete="off" spellcheck=${false} /></label>
          <div class="actions"><button disabled=${sending}>${sending ? "Logging in …" : "Log in"}</button></div>
          <${Refused} error=${error} />
        </form>
      </section>
    </main>`;
}

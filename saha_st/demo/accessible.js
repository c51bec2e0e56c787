/* An error's toast is a button around a button, which assistive technology cannot take apart: only the inner one stays. */
() => new MutationObserver(() => {
  for (const header of document.querySelectorAll('.toast-header[role="button"]')) {
    header.removeAttribute("role");
    header.removeAttribute("tabindex");
  }
}).observe(document.body, { childList: true, subtree: true })

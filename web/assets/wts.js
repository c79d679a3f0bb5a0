// What a page gains by a script: relative times, copying, a filter, and questions in a dialog. All else works without.
'use strict';
(() => {
  const units = [['year', 31536000], ['month', 2592000], ['day', 86400], ['hour', 3600], ['minute', 60]];
  const words = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
  const relative = (at) => {
    const left = (at - Date.now()) / 1000;
    const [unit, size] = units.find(([, size]) => Math.abs(left) >= size) || ['second', 1];
    return unit === 'second' ? 'just now' : words.format(Math.round(left / size), unit);
  };
  const show = () => document.querySelectorAll('time[data-as=ago]').forEach((time) => {
    time.dataset.exact ??= time.textContent;
    time.textContent = relative(new Date(time.dateTime));
    const exact = document.createElement('span');
    exact.className = 'aside';
    exact.textContent = ` (${time.dataset.exact})`;
    time.append(exact);
  });
  show();
  setInterval(show, 60000);
  document.querySelectorAll('time[data-as=hour]').forEach((time) => {
    time.textContent = new Date(time.dateTime).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', timeZoneName: 'short' });
  });

  document.querySelectorAll('[data-copy]').forEach((button) => {
    const label = button.textContent;
    button.hidden = !navigator.clipboard;
    button.addEventListener('click', async () => {
      const from = document.getElementById(button.dataset.copy).cloneNode(true);
      from.querySelectorAll('button, .aside').forEach((part) => part.remove());
      await navigator.clipboard.writeText(from.textContent.trim());
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  });

  document.querySelectorAll('[data-filter]').forEach((input) => {
    input.hidden = false;
    input.closest('.filter').hidden = false;
    const rows = document.querySelectorAll(`#${input.dataset.filter} tbody tr`);
    input.addEventListener('input', () => rows.forEach((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(input.value.toLowerCase());
    }));
  });

  document.querySelectorAll('details.confirm').forEach((details) => {
    const summary = details.querySelector('summary');
    summary.setAttribute('aria-haspopup', 'dialog');
    summary.addEventListener('click', (event) => {
      event.preventDefault();
      const dialog = document.createElement('dialog');
      dialog.append(details.querySelector('.question').cloneNode(true));
      dialog.setAttribute('aria-label', summary.textContent.trim());
      const cancel = document.createElement('button');
      cancel.type = 'button';
      cancel.textContent = 'Cancel';
      cancel.addEventListener('click', () => dialog.close());
      dialog.querySelector('form').append(cancel);
      dialog.addEventListener('close', () => { dialog.remove(); summary.focus(); });
      document.body.append(dialog);
      dialog.showModal();
    });
  });
})();

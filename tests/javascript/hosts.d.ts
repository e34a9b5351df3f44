/** What WebUIs and gradio put on the page. A program of ours alone has none of it but `gradio_config`. */

declare function gradioApp(): Document | ShadowRoot | HTMLElement;
declare function onUiLoaded(callback: () => void): void;
declare function onAfterUiUpdate(callback: () => void): void;
declare function switch_to_txt2img(): void;
declare function get_uiCurrentTabContent(): HTMLElement;
declare function inputAccordionChecked(id: string, checked: boolean): void;
declare function requestProgress(
    task: string, container: Element, gallery: null, atEnd: () => void, onProgress: null, inactivityTimeout: number
): void;

interface Window {
    gradio_config?: {root?: string};
}
